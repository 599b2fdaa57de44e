"""Calibration pairs (x_t, t): recorded from the full-precision sampler's own callback, at the model time it sees.

PTQ4DM (arXiv:2211.15736), section 3: samples of the denoising process beat images and forward-diffused images.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ptq_export.calibrators.arrays import Array, read_arrays
from ptq_export.calibrators.finite import require_finite_output
from ptq_export.calibrators.timesteps import draw_step_indices
from ptq_export.conditions import rows as rows_of
from ptq_export.denoiser import Denoiser
from ptq_export.device import exact_floats
from ptq_export.errors import InputError
from ptq_export.interface import LABEL, SAMPLE, TIMESTEP
from ptq_export.pairs import Pairs
from ptq_export.sampling import Step, initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler

__all__ = ["collect_pairs", "load_pairs"]

ONE_EACH = "must hold one integer per sample"


@exact_floats()
def collect_pairs(
    denoiser: Denoiser,
    count: int,
    steps: int,
    policy: str,
    seed: int,
    advance: Callable[[int], None],
    batch: int = 16,
) -> Pairs:
    """One pair from each of `count` trajectories of `steps` steps; `policy` draws the step of each.

    Conditions are drawn from the denoiser's examples, labels from all its classes; where its samples are guided, every
    second pair is a call without the conditions that guidance takes away. The network alone computes on its
    device: what is drawn, and the sampler, stay on the CPU, and so do the pairs.

    `advance(n)` is told how many of the `count * steps` evaluations are done, or turn out not to be needed; where the
    sampler's rule visits more time-steps than `steps`, it is told of more.

    Raises:
        InputError: a step makes NaN or infinite values; the layer and the time-step are named.
    """
    scheduler = make_scheduler(denoiser.schedule)
    scheduler.set_timesteps(steps)
    wanted = draw_step_indices(policy, scheduler.timesteps, denoiser.schedule.num_train_timesteps, count, seed)
    noise = initial_noise((count, *denoiser.sample_shape), seed)
    conditions = denoiser.draw(count, seed)
    sample, timestep = torch.empty_like(noise), denoiser.schedule.timesteps([0.0] * count)
    # Trajectories that end early share a batch: none runs on after its last wanted step.
    for rows in torch.split(wanted.argsort(stable=True), batch):
        needed = int(wanted[rows].max()) + 1

        def record(step: Step, rows: Tensor = rows) -> None:
            # As released: the index counts from t = 0 where the loop counts from t = T, x_{t-1} is stored in place
            # of x_t, and the network is given the respaced index in place of the original time.
            released = policy == "as-released"
            hit = wanted[rows] == step.index
            sample[rows[hit]] = (step.previous if released else step.sample)[hit]
            timestep[rows[hit]] = step.index if released else step.timestep
            advance(len(rows))

        model = denoiser.guided(partial(require_finite_output, denoiser))
        given = rows_of(conditions, rows)
        sample_loop(model, scheduler, noise[rows], steps, given, callback=record, stop=needed)
        advance(len(rows) * (len(scheduler.timesteps) - needed))
    guidance = denoiser.guidance
    return Pairs(sample, timestep, guidance.without_every_second(conditions) if guidance else conditions)


def load_pairs(path: Path, denoiser: Denoiser) -> Pairs:
    """Read pairs from `.safetensors` or `.npz`: an array `[N, ...]` for every input of the denoiser.

    Raises:
        InputError: an unreadable file, a missing array, a shape, a type or a value that the denoiser does not take.
    """
    inputs = denoiser.inputs
    remedy = f"give a .safetensors or .npz file with arrays {', '.join(map(str, inputs))}"
    arrays = read_arrays(path, [each.name for each in inputs], remedy)
    count, sizes = (*arrays[SAMPLE].shape, 0)[0], dict[str, int]()
    ends = {TIMESTEP: denoiser.schedule.num_train_timesteps} | {it.name: it.limit for it in denoiser.conditions}
    feeds = {}
    for each in inputs:
        array = arrays[each.name]
        if not count or array.shape[:1] != (count,) or not each.fits(array.shape, sizes):
            told = f"has shape {list(array.shape)}, the denoiser takes {each}" if each.shape else ONE_EACH
            raise InputError(f"{path}: {each.name} {told}", remedy)
        read = _floats if each.dtype == "float32" else _integers
        feeds[each.name] = read(path, each.name, array, ends.get(each.name), remedy)
    return Pairs.of_feeds(feeds)


def _floats(path: Path, name: str, array: Array, end: int | None, remedy: str) -> Tensor:
    """`[N, ...]` float32, finite; a flow's time-steps in 0..end."""
    if not array.is_float:
        raise InputError(f"{path}: {name} holds {array.dtype}, not float16, float32 or float64", remedy)
    values = torch.from_numpy(array.read()).float()
    if not values.isfinite().all():
        raise InputError(f"{path}: {name} holds NaN or infinite values", remedy)
    if end is not None and (values.min() < 0 or values.max() > end):
        raise InputError(f"{path}: {name} must lie in 0..{end}", remedy)
    return values


def _integers(path: Path, name: str, array: Array, end: int | None, remedy: str) -> Tensor:
    """`[N, ...]` int64 in 0..end-1."""
    values = array.read()
    # Time-steps are integers, whatever type they were saved in.
    if (array.is_float and name != TIMESTEP) or not np.array_equal(values, np.floor(values)):
        raise InputError(f"{path}: {name} {ONE_EACH if values.ndim == 1 else 'must hold integers'}", remedy)
    if values.min() < 0 or (end is not None and values.max() >= end):
        what = {TIMESTEP: "time-steps", LABEL: "labels"}.get(name, name)
        told = " (original training steps)" if name == TIMESTEP else ""
        raise InputError(f"{path}: {what} must lie in 0..{'' if end is None else end - 1}{told}", remedy)
    return torch.from_numpy(values.astype(np.int64))
