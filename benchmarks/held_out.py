"""Held-out pairs: what the reference's own sampler sees at a time-step, from noise that calibration never used."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ptq_export.denoiser import NoiseSchedule
from ptq_export.sampling import EpsModel, Step, initial_noise, make_scheduler, sample_loop, visited_timesteps

__all__ = ["BATCH", "HELD_OUT_SEEDS", "HeldOut", "batches", "held_out_noise", "held_out_pairs", "sampler_timesteps"]

BATCH = 64  # samples per call: bounds the memory of every measurement
HELD_OUT_SEEDS = 1 << 31  # torch's CPU generator reads 32 bits of a seed: calibration has the lower half


@dataclass(frozen=True)
class HeldOut:
    """x_t `[N, C, H, W]` at some of the time-steps t of an S-step DDIM loop; labels `[N]` if there are classes."""

    schedule: NoiseSchedule
    steps: int
    pairs: Mapping[int, Tensor]
    label: tuple[Tensor, ...] = ()


def held_out_noise(shape: tuple[int, ...], seed: int) -> Tensor:
    """Standard normal noise `[N, C, H, W]` whose seed (0 to 2^31 - 1) is moved out of calibration's range."""
    return initial_noise(shape, seed=HELD_OUT_SEEDS + seed)


def batches(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Tensors of one length `[N, ...]`, at most `BATCH` rows at a time."""
    return zip(*(torch.split(tensor, BATCH) for tensor in tensors), strict=True)


def sampler_timesteps(schedule: NoiseSchedule, steps: int, count: int) -> list[int]:
    """`count` of the time-steps that an S-step DDIM loop visits, evenly spaced from the first to the last."""
    visited = visited_timesteps(schedule, steps)
    positions = torch.linspace(0, len(visited) - 1, min(count, len(visited))).round().long().tolist()
    return [visited[position] for position in positions]


def held_out_pairs(
    reference: EpsModel,
    schedule: NoiseSchedule,
    sample_shape: tuple[int, int, int],
    steps: int,
    timesteps: int,
    count: int,
    seed: int,
    *label: Tensor,
) -> HeldOut:
    """x_t `[count, C, H, W]` at that many `timesteps` of the reference's own `steps`-step DDIM loop.

    `label` `[count]` is for class-conditional references.
    """
    noise = held_out_noise((count, *sample_shape), seed)
    chunks: dict[int, list[Tensor]] = {t: [] for t in sampler_timesteps(schedule, steps, timesteps)}

    def record(step: Step) -> None:
        if step.timestep in chunks:
            chunks[step.timestep].append(step.sample)

    for chunk, *given in batches(noise, *label):
        sample_loop(reference, make_scheduler(schedule), chunk, steps, *given, callback=record)
    return HeldOut(schedule, steps, {t: torch.cat(samples) for t, samples in chunks.items()}, label)
