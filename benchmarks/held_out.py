"""Held-out pairs: what the reference's own sampler sees at a time-step, from noise that calibration never used."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ptq_export.conditions import UNCONDITIONAL, Conditions, batched
from ptq_export.denoiser import NoiseSchedule
from ptq_export.guidance import Guidance, under
from ptq_export.sampling import EpsModel, Step, initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler, visited_timesteps

__all__ = ["BATCH", "HELD_OUT_SEEDS", "HeldOut", "held_out_noise", "held_out_pairs", "sampler_timesteps"]

BATCH = 64  # samples per call: bounds the memory of every measurement
HELD_OUT_SEEDS = 1 << 31  # torch's CPU generator reads 32 bits of a seed: calibration has the lower half


@dataclass(frozen=True)
class HeldOut:
    """x_t `[N, *sample_shape]` at some of the time-steps t of an S-step loop, their conditions `[N, ...]`, and the
    guidance under which a model is asked."""

    schedule: NoiseSchedule
    steps: int
    pairs: Mapping[float, Tensor]
    conditions: Conditions = field(default_factory=dict)
    guidance: Guidance | None = None


def held_out_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise `[N, C, H, W]` whose seed (0 to 2^31 - 1) is moved out of calibration's range."""
    return initial_noise(shape, seed=HELD_OUT_SEEDS + seed)


def sampler_timesteps(schedule: NoiseSchedule, steps: int, count: int) -> list[float]:
    """`count` of the time-steps that an S-step loop visits, evenly spaced from the first to the last."""
    visited = visited_timesteps(schedule, steps)
    positions = torch.linspace(0, len(visited) - 1, min(count, len(visited))).round().long().tolist()
    return [visited[position] for position in positions]


def held_out_pairs(
    reference: EpsModel,
    schedule: NoiseSchedule,
    sample_shape: tuple[int, ...],
    steps: int,
    timesteps: int,
    count: int,
    seed: int,
    conditions: Conditions = UNCONDITIONAL,
    guidance: Guidance | None = None,
) -> HeldOut:
    """x_t `[count, *sample_shape]` at that many `timesteps` of the reference's own `steps`-step loop, its `conditions`
    `[count, ...]` given, under `guidance`."""
    noise = held_out_noise((count, *sample_shape), seed)
    chunks: dict[float, list[Tensor]] = {t: [] for t in sampler_timesteps(schedule, steps, timesteps)}

    def record(step: Step) -> None:
        if step.timestep in chunks:
            chunks[step.timestep].append(step.sample)

    for chunk, given in zip(torch.split(noise, BATCH), batched(conditions, BATCH, count), strict=True):
        sample_loop(under(guidance, reference), make_scheduler(schedule), chunk, steps, given, callback=record)
    return HeldOut(schedule, steps, {t: torch.cat(samples) for t, samples in chunks.items()}, conditions, guidance)
