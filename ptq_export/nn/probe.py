"""What tells two networks apart: noise at the first, the middle and the last time-step, evaluated by both."""

import math

import torch
from torch import Tensor

from ptq_export.denoiser import Denoiser
from ptq_export.pairs import Pairs

__all__ = ["EQUAL", "blank", "difference", "noise", "probe"]

EQUAL = 1e-5
"""Float32 in another order of summation stays below this share of the largest value; a wrong weight does not."""


def probe(denoiser: Denoiser) -> Pairs:
    """Three samples of noise, at the first, the middle and the last time-step."""
    last = denoiser.schedule.num_train_timesteps - 1
    sample = torch.randn((3, *denoiser.sample_shape), generator=torch.Generator().manual_seed(0))
    return Pairs(sample, denoiser.schedule.timesteps([0, last // 2, last]), denoiser.draw(3, 0))


def noise(denoiser: Denoiser, count: int, timestep: float, seed: int) -> Pairs:
    """`count` samples of noise at one time-step, with conditions drawn for them."""
    sample = torch.randn((count, *denoiser.sample_shape), generator=torch.Generator().manual_seed(seed))
    return Pairs(sample, denoiser.schedule.timesteps([timestep] * count), denoiser.draw(count, seed))


def blank(denoiser: Denoiser, count: int = 1) -> Pairs:
    """`count` samples of zeros at time-step 0, where only shapes matter."""
    sample = torch.zeros(count, *denoiser.sample_shape)
    return Pairs(sample, denoiser.schedule.timesteps([0] * count), denoiser.draw(count, 0))


def difference(wanted: Tensor, found: Tensor) -> float:
    """max |found - wanted| / max |wanted|; 0 where both are 0, infinite where shapes differ or a value is NaN."""
    if wanted.shape != found.shape:
        return math.inf
    largest, error = wanted.abs().max().item(), (found - wanted).abs().max().item()
    if error == 0:
        return 0.0
    return error / largest if largest > 0 and math.isfinite(error) else math.inf
