"""The sampling loop: any diffusers scheduler around any `(sample, timestep[, label]) -> eps`, with a callback per step.

The callback serves the calibration (which records what the network really sees), the fidelity measurements and the
step timer alike; there is one loop in this package.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from inspect import signature
from typing import Any

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from ptq_export.denoiser import NoiseSchedule
from ptq_export.errors import InputError

__all__ = ["SAMPLERS", "Step", "check_steps", "eps_of", "initial_noise", "make_scheduler", "sample_loop"]

EpsModel = Callable[..., Tensor]
SAMPLERS: dict[str, tuple[type, dict[str, Any]]] = {
    "ddim": (DDIMScheduler, {"timestep_spacing": "leading"}),
    "ddpm": (DDPMScheduler, {"timestep_spacing": "leading"}),
    "dpm-solver++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
}


@dataclass(frozen=True)
class Step:
    """What one iteration saw and made: x_t `[N, C, H, W]`, the model time t, the model's output, and x_{t-1}."""

    index: int
    timestep: int
    sample: Tensor
    output: Tensor
    previous: Tensor


def make_scheduler(schedule: NoiseSchedule, sampler: str = "ddim") -> Any:
    """A diffusers scheduler for `schedule`; `sampler` is one of `SAMPLERS`."""
    if sampler not in SAMPLERS:
        raise InputError(f"unknown sampler {sampler!r}", f"known: {', '.join(sorted(SAMPLERS))}")
    kind, options = SAMPLERS[sampler]
    known = signature(kind).parameters
    values = {name: value for name, value in asdict(schedule).items() if name in known}
    if kind is DPMSolverMultistepScheduler:
        values["variance_type"] = None
    return kind(**values, **options)


def check_steps(schedule: NoiseSchedule, steps: int) -> None:
    """Refuse a number of steps that does not divide T: the sampler would skip the noisiest time-steps.

    Raises:
        InputError: with the nearest numbers of steps that do.
    """
    total = schedule.num_train_timesteps
    if steps > total or total % steps:
        divisors = [n for n in range(1, total + 1) if total % n == 0]
        near = [*[n for n in divisors if n < steps][-1:], *[n for n in divisors if n > steps][:1]]
        remedy = f"nearest that do: {', '.join(map(str, near))}"
        raise InputError(f"{steps} steps do not divide the {total} training steps", remedy)


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
    generator = torch.Generator().manual_seed(seed)
    stochastic = isinstance(scheduler, DDPMScheduler)
    options = {"generator": generator} if stochastic else {}
    sample: Tensor = noise * scheduler.init_noise_sigma
    for index, t in enumerate(scheduler.timesteps.tolist()[:stop]):
        timestep = torch.full((len(sample),), t, dtype=torch.int64)
        output = model(sample, timestep, *label)
        used = output if stochastic else eps_of(output, sample)
        previous = scheduler.step(used, t, sample, return_dict=False, **options)[0]
        if callback is not None:
            callback(Step(index, t, sample, output, previous))
        sample = previous
    return sample
