"""The arrows of the main job: each leaves its result in the run folder, and is skipped where that stands already."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from torch import nn

from ptq_export.calibrators.finite import require_finite_output
from ptq_export.calibrators.pairs import collect_pairs, load_pairs
from ptq_export.calibrators.quantise import (
    Method,
    UnitStore,
    integer_state,
    quantise,
    quantised_grids,
    quantised_modules,
    restore,
)
from ptq_export.calibrators.reconstruct import Recipe
from ptq_export.calibrators.sites import Site, find_sites, find_units, keep_float
from ptq_export.checkpoints import load_checkpoint
from ptq_export.checkpoints.told import read_scheduler
from ptq_export.denoiser import Denoiser
from ptq_export.device import find_device
from ptq_export.machine import require_memory
from ptq_export.nn.bake import bake_weights
from ptq_export.nn.drop_variance import drop_variance
from ptq_export.nn.fold_scale_shift import fold_scale_shift
from ptq_export.nn.gridded_block import place_grids
from ptq_export.nn.pad_inside import pad_inside
from ptq_export.nn.planar import make_planar
from ptq_export.nn.probe import probe
from ptq_export.nn.scheme import Scheme
from ptq_export.nn.share import share
from ptq_export.nn.split_shortcut import split_shortcuts
from ptq_export.options import Options
from ptq_export.pairs import Pairs
from ptq_export.pipeline.job import Job, Plan, read_timings
from ptq_export.pipeline.progress import Progress
from ptq_export.pipeline.start import (
    require_equal,
    require_grids,
    require_int8_layers,
    require_integer_form,
    require_size,
)
from ptq_export.prompts import prompted, read_prompts
from ptq_export.run_folder import RunFolder
from ptq_export.schedulers import visited_timesteps
from ptq_export.targets import find_target

__all__ = [
    "ASKED",
    "PAIRS",
    "QUANTISED",
    "VALUES_PER_NUMBER",
    "calibration_pairs",
    "float_sites",
    "given",
    "load_denoiser",
    "open_job",
    "open_subject",
    "quantised",
]

PAIRS = "pairs.safetensors"
QUANTISED = "quantised.safetensors"
VALUES_PER_NUMBER = 128  # activations of a U-Net, per number of a sample
BYTES_PER_STEP = 4 * 1024  # a row of the table of the time embedding
PAIRS_BATCH = {"cpu": 16, "cuda": 256}
ASKED = "kept float: asked for by --keep-float"


def load_denoiser(
    options: Options, scheduler: Mapping[str, Any] | None = None, prompts: Sequence[str] | None = None
) -> Denoiser:
    """The denoiser that `options` name, its weights baked and folded, its learned variance dropped unless it is to be
    kept: proved to be the same function. What takes prompts has some for examples, and is guided.

    `scheduler` and `prompts` are the contents of `options.scheduler_config` and `options.prompts`, read from those
    files where they are None.

    Raises:
        InputError: what `options` name cannot be used: too large, or NaN in its output.
        GateFailed: it is not the same function any more.
    """
    scheduler = read_scheduler(options.scheduler_config) if scheduler is None else scheduler
    prompts = read_prompts(options.prompts) if prompts is None else prompts
    read = load_checkpoint(options.ckpt, options.resolution, options.assumptions, scheduler, options.config)
    loaded = prompted(read, prompts, options.guidance)
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


def open_subject(denoiser: Denoiser, split: bool, scheme: Scheme) -> Denoiser:
    """What is quantised: the denoiser, its shortcuts split or not, with the places for the grids of `scheme`.

    Raises:
        GateFailed: with those it computes something else.
    """
    joint = split_shortcuts(denoiser) if split else denoiser
    subject = place_grids(joint, scheme)
    if subject is not joint:
        pairs = probe(denoiser)
        require_equal(pairs.through(joint), pairs.through(subject), "placing grids in residual blocks")
    return subject


def open_job(options: Options, denoiser: Denoiser, request: Mapping[str, Any], progress: Progress) -> Job:
    """The job that `options` ask for, in its run folder, which is `request`'s or becomes it."""
    target = find_target(options.target)
    scheme = target.scheme_for(options, options.placements)
    subject = open_subject(denoiser, options.split_shortcut, scheme)
    sites = float_sites(subject, scheme, options)
    require_grids(subject, sites, scheme)
    folder = RunFolder.create(options.folder, request)
    plan = Plan(denoiser, subject, sites, options.placements)
    return Job(options, target, denoiser, folder, progress, plan, read_timings(folder))


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
    units = find_units(job.subject, job.sites)
    store = UnitStore(
        load=lambda index: folder.load_tensors(_unit_file(index)),
        save=lambda index, state: folder.save_tensors(_unit_file(index), state),
    )
    subject = job.subject.on(find_device(options.device))
    with job.stage(f"calibration, {options.rounding} rounding", len(units)):
        model = quantise(subject, job.sites, pairs, method, store, lambda _: job.progress.advance()).cpu()
    folder.save_tensors(QUANTISED, integer_state(model, (*quantised_modules(model), *quantised_grids(model))))
    return model


def _unit_file(index: int) -> str:
    return f"units/{index:03d}.safetensors"


def given(value: int | None) -> int:
    """An option that `Options.resolved()` has filled in."""
    assert value is not None, "options are resolved before the job"
    return value
