"""The arrows of the main job: each leaves its result in the run folder, and is skipped where that stands already."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Protocol

from torch import nn

from ptq_export.artifacts import write_json
from ptq_export.calibrators.finite import require_finite_output
from ptq_export.calibrators.pairs import collect_pairs, load_pairs
from ptq_export.calibrators.quantise import Method, UnitStore, quantise, quantised_modules, restore
from ptq_export.calibrators.reconstruct import Recipe
from ptq_export.calibrators.sites import Site, find_sites, find_units, keep_float
from ptq_export.checkpoints import load_checkpoint
from ptq_export.checkpoints.told import read_scheduler
from ptq_export.denoiser import Denoiser
from ptq_export.device import find_device
from ptq_export.engines.base import EngineOptions
from ptq_export.engines.registry import availability
from ptq_export.jetpack import JetPack
from ptq_export.machine import most_threads, require_memory
from ptq_export.nn.bake import bake_weights
from ptq_export.nn.drop_variance import drop_variance
from ptq_export.nn.fold_scale_shift import fold_scale_shift
from ptq_export.nn.pad_inside import pad_inside
from ptq_export.nn.planar import make_planar
from ptq_export.nn.probe import probe
from ptq_export.nn.scheme import Carrier, Scheme, placed
from ptq_export.nn.share import share
from ptq_export.nn.split_shortcut import split_shortcuts
from ptq_export.options import Options
from ptq_export.pairs import Pairs
from ptq_export.pipeline.folder import RunFolder
from ptq_export.pipeline.start import require_equal, require_int8_layers, require_integer_form, require_size
from ptq_export.schedulers import visited_timesteps
from ptq_export.schemas import read_part
from ptq_export.targets import Target, find_target

__all__ = [
    "ASKED",
    "CHECKED",
    "PAIRS",
    "QUANTISED",
    "SILENT",
    "VALUES_PER_NUMBER",
    "Job",
    "Progress",
    "calibration_pairs",
    "float_sites",
    "given",
    "load_denoiser",
    "open_job",
    "quantised",
    "read_timings",
]

PAIRS = "pairs.safetensors"
QUANTISED = "quantised.safetensors"
TIMINGS = "timings.json"
CHECKED = "tensorrt.json"
VALUES_PER_NUMBER = 128  # activations of a U-Net, per number of a sample
BYTES_PER_STEP = 4 * 1024  # a row of the table of the time embedding
PAIRS_BATCH = {"cpu": 16, "cuda": 256}
ASKED = "kept float: asked for by --keep-float"


class Progress(Protocol):
    """Hears what the job is doing."""

    def stage(self, name: str, total: int | None) -> None:
        """A stage of `total` parts begins (None: unknown)."""

    def advance(self, n: int = 1) -> None:
        """`n` more parts are done."""

    def message(self, text: str) -> None:
        """Something the user should read."""


class _Silent:
    """Progress that nobody watches."""

    def stage(self, name: str, total: int | None) -> None:
        """Ignored."""

    def advance(self, n: int = 1) -> None:
        """Ignored."""

    def message(self, text: str) -> None:
        """Ignored."""


SILENT = _Silent()


@dataclass
class Job:
    """What every stage needs; `timings_s` holds the time of every stage that was run, in this session or before.

    `subject` is what is quantised: the denoiser, or its equal in float with the shortcuts split; `sites` are its
    layers: int8, or float with the reason. `placements` are the choices in the target's scheme.
    """

    options: Options
    target: Target
    denoiser: Denoiser
    folder: RunFolder
    progress: Progress
    subject: Denoiser
    sites: tuple[Site, ...]
    timings_s: dict[str, float]
    placements: frozenset[str] = frozenset()

    def __enter__(self) -> "Job":
        return self

    def __exit__(self, *_: object) -> None:
        self.folder.close()

    @property
    def scheme(self) -> Scheme:
        """The quantisation rules of the target, as they were chosen."""
        return placed(self.target.quantised(), self.placements)

    @property
    def jetpack(self) -> JetPack | None:
        """The JetPack that a Jetson's graph is made for; None for other targets."""
        return self.target.jetpack(self.options.jetpack)

    @property
    def carrier(self) -> Carrier:
        """The type of everything in the target's graph that is not int8."""
        return self.scheme.carrier if self.jetpack is None else self.jetpack.carrier

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


def load_denoiser(options: Options, scheduler: Mapping[str, Any] | None = None) -> Denoiser:
    """The denoiser that `options` name, its weights baked and folded, its learned variance dropped unless it is to be
    kept: proved to be the same function.

    `scheduler` is the content of `options.scheduler_config`, read from that file where it is None.

    Raises:
        InputError: what `options` name cannot be used: too large, or NaN in its output.
        GateFailed: it is not the same function any more.
    """
    scheduler = read_scheduler(options.scheduler_config) if scheduler is None else scheduler
    loaded = load_checkpoint(options.ckpt, options.resolution, options.assumptions, scheduler, options.config)
    _require_evaluation(loaded)
    require_size(loaded)
    pairs = probe(loaded)
    wanted = require_finite_output(loaded, pairs.sample, pairs.timestep, **pairs.conditions)
    denoiser = make_planar(pad_inside(fold_scale_shift(bake_weights(loaded))))
    denoiser = drop_variance(denoiser) if options.variance == "drop" else denoiser
    if denoiser is not loaded:
        found = pairs.through(denoiser)
        require_equal(wanted[:, : found.shape[1]], found, "baking and folding weights")
    return denoiser


def _require_evaluation(denoiser: Denoiser) -> None:
    """Refuse a denoiser of which not even one evaluation fits into this machine."""
    shape, steps = "x".join(map(str, denoiser.sample_shape)), denoiser.schedule.num_train_timesteps
    require_memory(
        VALUES_PER_NUMBER * 4 * prod(denoiser.sample_shape), f"a sample of {shape}", "give a lower --resolution"
    )
    require_memory(BYTES_PER_STEP * steps, f"a noise schedule of {steps} steps", "check the checkpoint's configuration")


def float_sites(denoiser: Denoiser, scheme: Scheme, options: Options) -> tuple[Site, ...]:
    """The layers of a denoiser, those that `--keep-float` names kept float; some are int8, and their integer form is
    proved to be the layer.

    Raises:
        InputError: no layer would be int8.
        GateFailed: a layer's integer form computes something else, without quantisation.
    """
    sites = keep_float(find_sites(denoiser, scheme), options.keep_float_patterns, ASKED)
    require_int8_layers(sites)
    require_integer_form(denoiser, sites)
    return sites


def open_job(options: Options, denoiser: Denoiser, request: Mapping[str, Any], progress: Progress) -> Job:
    """The job that `options` ask for, in its run folder, which is `request`'s or becomes it."""
    subject = split_shortcuts(denoiser) if options.split_shortcut else denoiser
    target = find_target(options.target)
    sites = float_sites(subject, placed(target.quantised(), options.placements), options)
    folder = RunFolder(options.folder, request)
    return Job(options, target, denoiser, folder, progress, subject, sites, read_timings(folder), options.placements)


def read_timings(folder: RunFolder) -> dict[str, float]:
    """Seconds of the stages that were run in earlier sessions."""
    return read_part(folder.path, TIMINGS) if (folder.path / TIMINGS).exists() else {}


def calibration_pairs(job: Job) -> Pairs:
    """Pairs of the full-precision sampler, or the user's own."""
    options = job.options
    if options.calibration_data is not None:
        return load_pairs(options.calibration_data, job.denoiser)
    found = job.folder.load_tensors(PAIRS)
    if found is None:
        count, steps = given(options.samples), given(options.steps)
        denoiser, batch = job.denoiser.on(find_device(options.device)), PAIRS_BATCH[options.device]
        with job.stage("calibration pairs", count * len(visited_timesteps(denoiser.schedule, steps))):
            pairs = collect_pairs(denoiser, count, steps, options.policy, options.seed, job.progress.advance, batch)
        job.folder.save_tensors(PAIRS, pairs.feeds)
        return pairs
    return Pairs.of_feeds(found)


def quantised(job: Job, pairs: Pairs) -> nn.Module:
    """The simulation: the network with integer layers."""
    state = job.folder.load_tensors(QUANTISED)
    if state is not None:
        model = share(job.subject.module)
        restore(model, state)
        return model
    options, folder = job.options, job.folder
    recipe = Recipe(given(options.iterations)) if options.rounding == "learned" else None
    method = Method(job.scheme, options.metric, recipe, options.seed)
    units = find_units(job.subject.module, job.sites)
    store = UnitStore(
        load=lambda index: folder.load_tensors(_unit_file(index)),
        save=lambda index, state: folder.save_tensors(_unit_file(index), state),
    )
    subject = job.subject.on(find_device(options.device))
    with job.stage(f"calibration, {options.rounding} rounding", len(units)):
        model = quantise(subject, job.sites, pairs, method, store, lambda _: job.progress.advance()).cpu()
    layers = quantised_modules(model)
    state = {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}
    folder.save_tensors(QUANTISED, state)
    return model


def _unit_file(index: int) -> str:
    return f"units/{index:03d}.safetensors"


def given(value: int | None) -> int:
    """A knob that `Options.resolved()` has filled in."""
    assert value is not None, "options are resolved before the job"
    return value
