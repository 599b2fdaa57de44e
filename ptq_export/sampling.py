"""The sampling loop: any diffusers scheduler around any denoiser, with a callback per step.

The callback serves the calibration (which records what the network really sees), the fidelity measurements and the
step timer alike; there is one loop in this package.
"""

from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch import Tensor

from ptq_export.conditions import UNCONDITIONAL, Conditions
from ptq_export.schedulers import FlowEuler

__all__ = ["EpsModel", "Step", "eps_of", "initial_noise", "sample_loop"]

EpsModel = Callable[..., Tensor]
"""`(sample, timestep, **conditions)` on tensors: a denoiser, its module, an engine."""


@dataclass(frozen=True)
class Step:
    """What one iteration saw and made: the model's input `[N, C, H, W]` (x_t; scaled, where the scheduler scales it),
    the model time t (whole, but for a flow), the model's output, and x_{t-1}."""

    index: int
    timestep: float
    sample: Tensor
    output: Tensor
    previous: Tensor


def eps_of(output: Tensor, sample: Tensor) -> Tensor:
    """The prediction in a model's output for `sample` `[N, C, ...]`: its first C channels."""
    return output[:, : sample.shape[1]]


def initial_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise from a generator of its own: x_T of a seed does not depend on anything run before."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def sample_loop(
    model: EpsModel,
    scheduler: Any,
    noise: Tensor,
    steps: int,
    conditions: Conditions = UNCONDITIONAL,
    callback: Callable[[Step], None] | None = None,
    seed: int = 0,
    stop: int | None = None,
) -> Tensor:
    """Denoise `noise` `[N, C, H, W]` in `steps` steps; returns x_0, or what stands after the first `stop` steps.

    `conditions` `[N, ...]` go to the model at every step. `seed` feeds stochastic samplers only.
    """
    scheduler.set_timesteps(steps)
    reads_variance = getattr(scheduler, "kind", type(scheduler)) is DDPMScheduler
    draws = "generator" in signature(scheduler.step).parameters
    options = {"generator": torch.Generator().manual_seed(seed)} if draws else {}
    dtype, as_time = (torch.float32, float) if isinstance(scheduler, FlowEuler) else (torch.int64, round)
    sample: Tensor = noise * scheduler.init_noise_sigma
    for index, t in enumerate(scheduler.timesteps.tolist()[:stop]):
        seen = scheduler.scale_model_input(sample, t)
        timestep = torch.full((len(sample),), as_time(t), dtype=dtype)
        output = model(seen, timestep, **conditions)
        used = output if reads_variance else eps_of(output, sample)
        previous = scheduler.step(used, t, sample, return_dict=False, **options)[0]
        if callback is not None:
            callback(Step(index, as_time(t), seen, output, previous))
        sample = previous
    return sample
