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

__all__ = ["EpsModel", "Step", "Trajectory", "eps_of", "initial_noise", "sample_loop"]

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


class Trajectory:
    """One sampling loop, taken apart: what the model is asked next, and what its answer makes of the sample.

    Whoever holds several of them may answer all in one batch, each at its own time-step.
    """

    def __init__(self, scheduler: Any, noise: Tensor, steps: int, seed: int = 0) -> None:
        """Begin at `noise` `[N, C, H, W]` with `steps` steps; `seed` feeds stochastic samplers only."""
        scheduler.set_timesteps(steps)
        self.scheduler = scheduler
        self.times: list[float] = scheduler.timesteps.tolist()
        self.sample: Tensor = noise * scheduler.init_noise_sigma
        self.index = 0
        self._reads_variance = getattr(scheduler, "kind", type(scheduler)) is DDPMScheduler
        draws = "generator" in signature(scheduler.step).parameters
        self._options = {"generator": torch.Generator().manual_seed(seed)} if draws else {}
        is_flow = isinstance(scheduler, FlowEuler)
        self._dtype = torch.float32 if is_flow else torch.int64
        self._as_time: Callable[[float], float] = float if is_flow else round
        self._look()

    @property
    def done(self) -> bool:
        """Whether `sample` is x_0."""
        return self.index == len(self.times)

    @property
    def timestep(self) -> float:
        """The model time of the next call."""
        return self._as_time(self.times[self.index])

    def timesteps(self) -> Tensor:
        """The same for every sample, `[N]`."""
        return torch.full((len(self.sample),), self.timestep, dtype=self._dtype)

    def advance(self, output: Tensor) -> Step:
        """Take the model's answer to (`seen`, `timesteps()`)."""
        used = output if self._reads_variance else eps_of(output, self.sample)
        t, at = self.times[self.index], self.timestep
        previous = self.scheduler.step(used, t, self.sample, return_dict=False, **self._options)[0]
        step = Step(self.index, at, self.seen, output, previous)
        self.index, self.sample = self.index + 1, previous
        self._look()
        return step

    def _look(self) -> None:
        """Once per call: some schedulers count how often they are asked to scale."""
        if not self.done:
            self.seen: Tensor = self.scheduler.scale_model_input(self.sample, self.times[self.index])


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
    path = Trajectory(scheduler, noise, steps, seed)
    for _ in path.times[:stop]:
        step = path.advance(model(path.seen, path.timesteps(), **conditions))
        if callback is not None:
            callback(step)
    return path.sample
