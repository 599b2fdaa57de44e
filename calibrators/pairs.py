"""Calibration pairs (x_t, t): recorded from the full-precision sampler's own callback, at the model time it sees.

PTQ4DM (arXiv:2211.15736), section 3: samples of the denoising process beat images and forward-diffused images.
"""

import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ptq_export.calibrators.finite import require_finite_output
from ptq_export.calibrators.timesteps import draw_step_indices
from ptq_export.denoiser import Denoiser
from ptq_export.device import exact_floats
from ptq_export.errors import InputError
from ptq_export.interface import INPUTS
from ptq_export.sampling import Step, initial_noise, make_scheduler, sample_loop

__all__ = ["CalibrationPairs", "collect_pairs", "load_pairs"]

UNREADABLE = (OSError, EOFError, ValueError, TypeError, KeyError, SafetensorError, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class CalibrationPairs:
    """Inputs of the denoiser: `sample` `[N, C, H, W]` float32, `timestep` `[N]` int64 (original training steps), and
    `label` `[N]` int64 where it is class-conditional."""

    sample: Tensor
    timestep: Tensor
    label: Tensor | None = None

    def __len__(self) -> int:
        return len(self.sample)

    def inputs(self, rows: Tensor | slice = slice(None)) -> tuple[Tensor, ...]:
        """The arguments of the denoiser for some of the pairs, all by default."""
        label = () if self.label is None else (self.label[rows],)
        return (self.sample[rows], self.timestep[rows], *label)

    def on(self, device: torch.device) -> "CalibrationPairs":
        """The same pairs on `device`."""
        return CalibrationPairs(*(value.to(device) for value in self.inputs()))

    def batches(self, size: int) -> Iterator[tuple[Tensor, ...]]:
        """The arguments of the denoiser, `size` pairs at a time."""
        for first in range(0, len(self), size):
            yield self.inputs(slice(first, first + size))


@exact_floats()
def collect_pairs(
    denoiser: Denoiser,
    count: int,
    steps: int,
    policy: str,
    seed: int,
    advance: Callable[[int], None],
    batch: int = 16,
) -> CalibrationPairs:
    """One pair from each of `count` trajectories of `steps` DDIM steps; `policy` draws the step of each.

    The labels of a class-conditional denoiser are drawn from all its classes. The network alone computes on the
    denoiser's device: what is drawn, and the sampler, stay on the CPU, and so do the pairs.

    `advance(n)` is told how many of the `count * steps` evaluations are done, or turn out not to be needed; where the
    sampler's rule visits more time-steps than `steps`, it is told of more.

    Raises:
        InputError: a step makes NaN or infinite values; the layer and the time-step are named.
    """
    scheduler = make_scheduler(denoiser.schedule)
    scheduler.set_timesteps(steps)
    wanted = draw_step_indices(policy, scheduler.timesteps, denoiser.schedule.num_train_timesteps, count, seed)
    noise = initial_noise((count, *denoiser.sample_shape), seed)
    labels = denoiser.labels(count, seed)
    sample, timestep = torch.empty_like(noise), torch.empty(count, dtype=torch.int64)
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

        given = (label[rows] for label in labels)
        model = partial(require_finite_output, denoiser)
        sample_loop(model, scheduler, noise[rows], steps, *given, callback=record, stop=needed)
        advance(len(rows) * (len(scheduler.timesteps) - needed))
    return CalibrationPairs(sample, timestep, *labels)


def load_pairs(path: Path, denoiser: Denoiser) -> CalibrationPairs:
    """Read pairs from `.safetensors` or `.npz`: arrays `sample` `[N, C, H, W]`, `timestep` `[N]`, and for
    class-conditional denoisers `label` `[N]`.

    Raises:
        InputError: an unreadable file, a missing array, a shape or a time-step that the denoiser does not take.
    """
    arrays = INPUTS if denoiser.classes else INPUTS[:2]
    remedy = f"give a .safetensors or .npz file with arrays sample [N, C, H, W] and {' [N], '.join(arrays[1:])} [N]"
    try:
        tensors = _read(path, arrays)
        sample, timestep = tensors["sample"].float(), tensors["timestep"].double()
    except UNREADABLE as error:
        raise InputError(f"calibration data {path} cannot be used: {error}", remedy) from error
    if sample.ndim != 4 or tuple(sample.shape[1:]) != denoiser.sample_shape or len(sample) == 0:
        wanted = "x".join(map(str, denoiser.sample_shape))
        raise InputError(f"{path}: sample has shape {list(sample.shape)}, the denoiser takes [N, {wanted}]", remedy)
    if timestep.shape != sample.shape[:1] or not torch.equal(timestep, timestep.round()):
        raise InputError(f"{path}: timestep must hold one integer per sample", remedy)
    last = denoiser.schedule.num_train_timesteps - 1
    if timestep.min() < 0 or timestep.max() > last:
        raise InputError(f"{path}: time-steps must lie in 0..{last} (original training steps)", remedy)
    if not sample.isfinite().all():
        raise InputError(f"{path}: sample holds NaN or infinite values", remedy)
    if denoiser.classes is None:
        return CalibrationPairs(sample, timestep.long())
    label = tensors["label"]
    if label.shape != sample.shape[:1] or label.is_floating_point():
        raise InputError(f"{path}: label must hold one integer per sample", remedy)
    if label.min() < 0 or label.max() >= denoiser.classes:
        raise InputError(f"{path}: labels must lie in 0..{denoiser.classes - 1}", remedy)
    return CalibrationPairs(sample, timestep.long(), label.long())


def _read(path: Path, arrays: tuple[str, ...]) -> dict[str, Tensor]:
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            tensors = {name: torch.from_numpy(archive[name]) for name in arrays if name in archive}
    else:
        tensors = load_file(path)
    missing = [name for name in arrays if name not in tensors]
    if missing:
        raise ValueError(f"it has no array {' and no array '.join(missing)}")
    return tensors
