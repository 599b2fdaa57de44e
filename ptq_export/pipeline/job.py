"""A job: what was asked for, where it is made, and the plan of what is quantised."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ptq_export.artifacts import write_json
from ptq_export.calibrators.sites import Site
from ptq_export.denoiser import Denoiser
from ptq_export.engines.base import EngineOptions
from ptq_export.engines.registry import availability
from ptq_export.jetpack import JetPack
from ptq_export.machine import most_threads
from ptq_export.nn.scheme import FloatDtype, Scheme
from ptq_export.options import Options
from ptq_export.pipeline.folder import RunFolder
from ptq_export.pipeline.progress import Progress
from ptq_export.schemas import read_part
from ptq_export.targets import Target

__all__ = ["CHECKED", "Job", "Plan", "read_timings"]

CHECKED = "tensorrt.json"
TIMINGS = "timings.json"


@dataclass(frozen=True)
class Plan:
    """What is quantised: `subject` is the denoiser, or its equal in float with the shortcuts split; `sites` are its
    layers: int8, or float with the reason. `placements` are the choices in the target's scheme."""

    subject: Denoiser
    sites: tuple[Site, ...]
    placements: frozenset[str]


@dataclass(frozen=True)
class Job:
    """What every stage needs; what is chosen on the way makes another job, with another plan (`dataclasses.replace`).

    `timings_s` holds the time of every stage that was run, in this session or before.
    """

    options: Options
    target: Target
    denoiser: Denoiser
    folder: RunFolder
    progress: Progress
    plan: Plan
    timings_s: dict[str, float]

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.close()

    @property
    def subject(self) -> Denoiser:
        """What is quantised."""
        return self.plan.subject

    @property
    def sites(self) -> tuple[Site, ...]:
        """The subject's layers."""
        return self.plan.sites

    @property
    def scheme(self) -> Scheme:
        """The quantisation rules of the target, as they were chosen."""
        return self.target.scheme_for(self.options, self.plan.placements)

    @property
    def jetpack(self) -> JetPack | None:
        """The JetPack that a Jetson's graph is made for; None for other targets."""
        return self.target.jetpack(self.options.jetpack)

    @property
    def float_dtype(self) -> FloatDtype:
        """The type of everything in the target's graph that is not int8."""
        return self.scheme.float_dtype if self.jetpack is None else self.jetpack.float_dtype

    @property
    def engine_options(self) -> EngineOptions:
        """How the engines of this job are built and run."""
        options = self.options
        built = EngineOptions(
            batch=options.fixed_batch,
            batches=options.batch_range,
            builder_level=options.builder_level,
            workspace_mib=options.workspace,
            compute_capabilities=options.compute_capabilities,
        )
        # A run that was made on more cores may be served here.
        return built if options.threads is None else replace(built, threads=min(options.threads, most_threads()))

    @property
    def runs_here(self) -> bool:
        """Whether the target's own engine can be built and run on this machine, as far as was tried."""
        checked = self.folder.load_json(CHECKED) or {"own": "", "refusals": {}}
        here, _ = availability(self.target.engine, self.engine_options)
        return here and checked["own"] not in checked["refusals"]

    @property
    def prover(self) -> str:
        """The engine kind that executes the int8 graph here: the target's own, or ONNX Runtime in a GPU's place."""
        return self.target.engine if self.runs_here else "ort"

    def without_network(self) -> "Job":
        """The job once its engine is proved: the network and its weights are no longer held."""
        denoiser = self.denoiser.without_network()
        return replace(self, denoiser=denoiser, plan=replace(self.plan, subject=denoiser))

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Callable[[float], None]]:
        """Time a stage; yields a function that hears the share done (0 to 1)."""
        self.progress.stage(name, total if total is not None else 100)
        started, told = time.monotonic(), 0

        def share(done: float) -> None:
            nonlocal told
            self.progress.advance(int(done * 100) - told)
            told = int(done * 100)

        yield share
        self.timings_s[name] = round(time.monotonic() - started, 2)
        write_json(self.folder.path / TIMINGS, self.timings_s)


def read_timings(folder: RunFolder) -> dict[str, float]:
    """Seconds of the stages that were run in earlier sessions."""
    return read_part(folder.path, TIMINGS) if (folder.path / TIMINGS).exists() else {}
