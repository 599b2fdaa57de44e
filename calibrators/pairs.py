"""Calibration pairs (x_t, t): recorded from the full-precision sampler's own callback, at the model time it sees.

PTQ4DM (arXiv:2211.15736), section 3: samples of the denoising process beat images and forward-diffused images.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ptq_export.calibrators.arrays import Array, read_arrays
from ptq_export.calibrators.timesteps import draw_step_indices
from ptq_export.denoiser import Denoiser
from ptq_export.device import exact_floats
from ptq_export.errors import InputError
from ptq_export.interface import INPUTS
from ptq_export.sampling import Step, initial_noise, make_scheduler, sample_loop

__all__ = ["CalibrationPairs", "collect_pairs", "load_pairs"]


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

    `advance(n)` is told how many of the `count * steps` evaluations are done, or turn out not to be needed.
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
        sample_loop(denoiser, scheduler, noise[rows], steps, *given, callback=record, stop=needed)
        advance(len(rows) * (steps - needed))
    return CalibrationPairs(sample, timestep, *labels)


def load_pairs(path: Path, denoiser: Denoiser) -> CalibrationPairs:
    """Read pairs from `.safetensors` or `.npz`: arrays `sample` `[N, C, H, W]`, `timestep` `[N]`, and for
    class-conditional denoisers `label` `[N]`.

    Raises:
        InputError: an unreadable file, a missing array, a shape or a time-step that the denoiser does not take.
    """
    names = INPUTS if denoiser.classes else INPUTS[:2]
    remedy = f"give a .safetensors or .npz file with arrays sample [N, C, H, W] and {' [N], '.join(names[1:])} [N]"
    arrays = read_arrays(path, names, remedy)
    shape = arrays["sample"].shape
    if len(shape) != 4 or shape[1:] != denoiser.sample_shape or shape[0] == 0:
        wanted = "x".join(map(str, denoiser.sample_shape))
        raise InputError(f"{path}: sample has shape {list(shape)}, the denoiser takes [N, {wanted}]", remedy)
    if not arrays["sample"].is_float:
        raise InputError(f"{path}: sample holds {arrays['sample'].dtype}, not float16, float32 or float64", remedy)
    for name in names[1:]:
        if arrays[name].shape != shape[:1] or (name == "label" and arrays[name].is_float):
            raise InputError(f"{path}: {name} must hold one integer per sample", remedy)
    sample = torch.from_numpy(arrays["sample"].read()).float()
    if not sample.isfinite().all():
        raise InputError(f"{path}: sample holds NaN or infinite values", remedy)
    ends = (denoiser.schedule.num_train_timesteps, denoiser.classes or 0)
    rest = [_integers(path, name, arrays[name], end, remedy) for name, end in zip(names[1:], ends, strict=False)]
    return CalibrationPairs(sample, *rest)


def _integers(path: Path, name: str, array: Array, end: int, remedy: str) -> Tensor:
    """`[N]` int64 in 0..end-1."""
    values = array.read()
    if not np.array_equal(values, np.floor(values)):
        raise InputError(f"{path}: {name} must hold one integer per sample", remedy)
    if values.min() < 0 or values.max() >= end:
        what = {"timestep": "time-steps", "label": "labels"}[name]
        told = " (original training steps)" if name == "timestep" else ""
        raise InputError(f"{path}: {what} must lie in 0..{end - 1}{told}", remedy)
    return torch.from_numpy(values.astype(np.int64))
