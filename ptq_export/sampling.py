"""The sampling loop: any diffusers scheduler around any `(sample, timestep) -> eps`, with a callback per step.

The callback serves the calibration (which records what the network really sees), the fidelity measurements and the
step timer alike; there is one loop in this package.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from ptq_export.denoiser import NoiseSchedule
from ptq_export.errors import InputError

__all__ = ["SAMPLERS", "Step", "initial_noise", "make_scheduler", "sample_loop"]

EpsModel = Callable[[Tensor, Tensor], Tensor]
SAMPLERS: dict[str, tuple[type, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"timestep_spacing": "leading"}),
    "ddpm": (DDPMScheduler, {"timestep_spacing": "leading"}),
    "dpm-solver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
}


@dataclass(frozen=True)
class Step:
    """What one iteration saw and made: x_t `[N, C, H, W]`, the model time t, eps, and x_{t-1}."""

    index: int
    timestep: int
    sample: Tensor
    eps: Tensor
    previous: Tensor


def make_scheduler(schedule: NoiseSchedule, sampler: str = "ddim") -> Any:
    """A diffusers scheduler for `schedule`; `sampler` is one of `SAMPLERS`."""
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler {sampler!r}", f"known: {', '.join(sorted(SAMPLERS))}")
    kind, options = SAMPLERS[sampler]
    values = asdict(schedule)
    if kind is DPMSolverMultistepScheduler:
        values.pop("clip_sample")
    return kind(**values, **options)


def initial_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise from a generator of its own: x_T of a seed does not depend on anything run before."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def sample_loop(
    model: EpsModel,
    scheduler: Any,
    noise: Tensor,
    steps: int,
    callback: Callable[[Step], None] | None = None,
    seed: int = 0,
    stop: int | None = None,
) -> Tensor:
    """Denoise `noise` `[N, C, H, W]` in `steps` steps; returns x_0, or what stands after the first `stop` steps.

    `seed` feeds stochastic samplers only.
    """
    scheduler.set_timesteps(steps)
    generator = torch.Generator().manual_seed(seed)
    options = {"generator": generator} if isinstance(scheduler, DDPMScheduler) else {}
    sample: Tensor = noise * scheduler.init_noise_sigma
    for index, t in enumerate(scheduler.timesteps.tolist()[:stop]):
        timestep = torch.full((len(sample),), t, dtype=torch.int64)
        eps = model(sample, timestep)
        previous = scheduler.step(eps, t, sample, return_dict=False, **options)[0]
        if callback is not None:
            callback(Step(index, t, sample, eps, previous))
        sample = previous
    return sample
