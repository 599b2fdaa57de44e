"""The sampling loop: any diffusers scheduler around any `(sample, timestep[, label]) -> eps`, with a callback per step.

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

from ptq_export.schedulers import SAMPLERS, allowed_steps, check_steps, make_scheduler, sampler_notes, visited_timesteps

__all__ = [
    "SAMPLERS",
    "EpsModel",
    "Step",
    "allowed_steps",
    "check_steps",
    "eps_of",
    "initial_noise",
    "make_scheduler",
    "sample_loop",
    "sampler_notes",
    "visited_timesteps",
]

EpsModel = Callable[..., Tensor]


@dataclass(frozen=True)
class Step:
    """What one iteration saw and made: the model's input `[N, C, H, W]` (x_t; scaled, where the scheduler scales it),
    the model time t, the model's output, and x_{t-1}."""

    index: int
    timestep: int
    sample: Tensor
    output: Tensor
    previous: Tensor


def eps_of(output: Tensor, sample: Tensor) -> Tensor:
    """The eps in a model's output for `sample` `[N, C, H, W]`: its first C channels; a learned variance follows."""
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
    *label: Tensor,
    callback: Callable[[Step], None] | None = None,
    seed: int = 0,
    stop: int | None = None,
) -> Tensor:
    """Denoise `noise` `[N, C, H, W]` in `steps` steps; returns x_0, or what stands after the first `stop` steps.

    `label` `[N]` is for class-conditional models. `seed` feeds stochastic samplers only.
    """
    scheduler.set_timesteps(steps)
    reads_variance = getattr(scheduler, "kind", type(scheduler)) is DDPMScheduler
    draws = "generator" in signature(scheduler.step).parameters
    options = {"generator": torch.Generator().manual_seed(seed)} if draws else {}
    sample: Tensor = noise * scheduler.init_noise_sigma
    for index, t in enumerate(scheduler.timesteps.tolist()[:stop]):
        seen = scheduler.scale_model_input(sample, t)
        timestep = torch.full((len(sample),), round(t), dtype=torch.int64)
        output = model(seen, timestep, *label)
        used = output if reads_variance else eps_of(output, sample)
        previous = scheduler.step(used, t, sample, return_dict=False, **options)[0]
        if callback is not None:
            callback(Step(index, round(t), seen, output, previous))
        sample = previous
    return sample
