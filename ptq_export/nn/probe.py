"""What tells two networks apart: noise at the first, the middle and the last time-step, evaluated by both."""

import math

import torch
from torch import Tensor

from ptq_export.denoiser import Denoiser

__all__ = ["EQUAL", "difference", "probe_inputs"]

EQUAL = 1e-5
"""Float32 in another order of summation stays below this share of the largest value; a wrong weight does not."""


def probe_inputs(denoiser: Denoiser) -> tuple[Tensor, ...]:
    """A sample `[3, C, H, W]` of noise, time-steps `[3]`, and labels `[3]` if there are classes."""
    last = denoiser.schedule.num_train_timesteps - 1
    sample = torch.randn((3, *denoiser.sample_shape), generator=torch.Generator().manual_seed(0))
    return (sample, torch.tensor([0, last // 2, last]), *denoiser.labels(3, 0))


def difference(wanted: Tensor, found: Tensor) -> float:
    """max |found - wanted| / max |wanted|; 0 where both are 0, infinite where shapes differ or a value is NaN."""
    if wanted.shape != found.shape:
        return math.inf
    largest, error = wanted.abs().max().item(), (found - wanted).abs().max().item()
    if error == 0:
        return 0.0
    return error / largest if largest > 0 and math.isfinite(error) else math.inf
