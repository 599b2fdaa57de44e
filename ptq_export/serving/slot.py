"""A request under way: its own sampler, time-step, generator and conditions."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ptq_export.denoiser import NoiseSchedule
from ptq_export.errors import InputError
from ptq_export.guidance import guided
from ptq_export.sampling import Step, Trajectory, initial_noise
from ptq_export.schedulers import make_scheduler
from ptq_export.serving.request import Generation

__all__ = ["Rows", "Slot"]


@dataclass(frozen=True)
class Rows:
    """What one slot asks the engine in a step: `[R, ...]`, R = 1, or 2 with guidance."""

    sample: Tensor
    timestep: Tensor
    conditions: dict[str, Tensor]


class Slot:
    """The sampling loop of one request, a step at a time."""

    def __init__(self, asked: Generation, schedule: NoiseSchedule, shape: tuple[int, ...]) -> None:
        """Begin with the initial noise of the request's seed, `[1, *shape]`."""
        self.asked = asked
        scheduler = make_scheduler(schedule, asked.sampler)
        self.path = Trajectory(scheduler, initial_noise((1, *shape), asked.seed), asked.steps, asked.seed)

    def wanted(self) -> Rows:
        """What the engine is asked next; with guidance, the unconditional row first (as `ptq_export.guidance`)."""
        asked, seen, timestep = self.asked, self.path.seen, self.path.timesteps()
        if asked.guidance is None:
            return Rows(seen, timestep, dict(asked.conditions))
        both = {name: torch.cat([asked.unconditional[name], value]) for name, value in asked.conditions.items()}
        return Rows(torch.cat([seen, seen]), torch.cat([timestep, timestep]), both)

    def take(self, output: Tensor) -> Step:
        """Go on with the engine's answer to `wanted`, `[R, C or 2 C, ...]`.

        Raises:
            InputError: x_0 holds NaN or infinite values. Of all before it the engine finds them when it is asked next.
        """
        step = self.path.advance(self._guided(output))
        if self.path.done and not bool(torch.isfinite(step.previous).all()):
            told = f"the sample became NaN or infinite at step {step.index + 1}"
            raise InputError(told, "ask for less guidance, or other conditions")
        return step

    def _guided(self, output: Tensor) -> Tensor:
        if self.asked.guidance is None:
            return output
        return guided(output, self.asked.guidance, self.path.sample.shape[1])
