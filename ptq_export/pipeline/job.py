"""A job: what was asked for, where it is made, and the plan of what is quantised."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from ptq_export.artifacts import write_json
from ptq_export.calibrators.sites import Site
from ptq_export.denoiser import Denoiser
from ptq_export.engines.base import EngineOptions
from ptq_export.engines.registry import PROVER, find_runtime
from ptq_export.engines.runtime import Order, Runtime
from ptq_export.nn.scheme import FloatDtype, Scheme
from ptq_export.options import Options
from ptq_export.pipeline.progress import Progress
from ptq_export.run_folder import RunFolder
from ptq_export.schemas import read_part
from ptq_export.targets import Target

__all__ = ["Job", "Plan", "read_timings"]

TIMINGS = "timings.json"


@dataclass(frozen=True)
class Plan:
    """What is quantised: `denoiser` is the job's, or its equal in float with its channels balanced, and `subject` that
    one, or its equal with the shortcuts split; `sites` are its layers: int8, or float with the reason. `placements` are
    the choices in the target's scheme."""

    denoiser: Denoiser
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
    def runtime(self) -> Runtime:
        """The runtime of the target's engine."""
        return find_runtime(self.target.engine)

    @property
    def order(self) -> Order:
        """What the runtime is asked to check and to deliver."""
        return Order(
            target=self.target.name,
            onnx=self.target.onnx,
            folder=self.folder,
            options=self.own_options,
            check=self.options.check,
            inputs=self.denoiser.inputs,
            num_train_timesteps=self.denoiser.schedule.num_train_timesteps,
            stage=self.stage,
            message=self.progress.message,
        )

    @property
    def float_dtype(self) -> FloatDtype:
        """The type of everything in the target's graph that is not int8."""
        return self.runtime.float_dtype(self.own_options, self.scheme.float_dtype)

    @property
    def own_options(self) -> EngineOptions:
        """How the target's own engines are built and run."""
        return self.engine_options(self.runtime)

    def engine_options(self, runtime: Runtime) -> EngineOptions:
        """How the engines of this job on that runtime are built and run."""
        return runtime.options_from(self.options.for_engines)

    @property
    def runs_here(self) -> bool:
        """Whether the target's own engine can be built and run on this machine, as far as was tried."""
        return self.runtime.runs_here(self.order)

    @property
    def prover(self) -> Runtime:
        """The runtime that executes the int8 graph here: the target's own, or ONNX Runtime in a GPU's place."""
        return self.runtime if self.runs_here else find_runtime(PROVER)

    def without_network(self) -> "Job":
        """The job once its engine is proved: the network and its weights are no longer held."""
        denoiser = self.denoiser.without_network()
        return replace(self, denoiser=denoiser, plan=replace(self.plan, denoiser=denoiser, subject=denoiser))

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
