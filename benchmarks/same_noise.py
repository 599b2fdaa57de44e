"""Final samples of the same noise: the figure that ranks variants (FID can't tell one W8A8 net from another)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptq_export.benchmarks.fidelity import finite_db
from ptq_export.benchmarks.held_out import BATCH
from ptq_export.conditions import UNCONDITIONAL, Conditions, batched
from ptq_export.denoiser import Decoder, NoiseSchedule
from ptq_export.sampling import EpsModel, Step, sample_loop
from ptq_export.schedulers import make_scheduler, visited_timesteps

__all__ = ["SameNoise", "decode", "final_samples", "psnr_db", "same_noise_psnr", "value_range"]

PEAK = 2.0  # images live in [-1, 1]
DECODED_AT_ONCE = 4


@dataclass(frozen=True)
class SameNoise:
    """Final samples `[N, ...]` of the reference and of every candidate from one noise; images, where `latents` were
    decoded.

    `images` is the range of samples whose schedule clips them; others, latents, have the range of the reference.
    """

    sampler: str
    steps: int
    reference: Tensor
    candidates: Mapping[str, Tensor]
    images: tuple[float, float] | None = (-1.0, 1.0)
    latents: "SameNoise | None" = None

    @property
    def range(self) -> tuple[float, float]:
        """The least and the greatest value of a sample, whose distance is the peak of the PSNR."""
        return value_range(self.images, self.reference)

    def to_json(self) -> dict[str, Any]:
        """`psnr` in `fidelity.json`; identical samples count as 150 dB."""
        low, high = self.range
        values = {}
        for name, samples in self.candidates.items():
            each = [finite_db(value) for value in psnr_db(self.reference, samples, high - low)]
            values[name] = {"mean_db": round(sum(each) / len(each), 4), "min_db": min(each)}
        told: dict[str, Any] = {"range": [low, high], "range_of": "images" if self.images else "reference samples"}
        before = {} if self.latents is None else {"latents": self.latents.to_json()["values"]}
        told |= {"values": values, **before}
        return {"sampler": self.sampler, "steps": self.steps, "samples": len(self.reference), **told}


def same_noise_psnr(
    reference: EpsModel,
    candidates: Mapping[str, EpsModel],
    schedule: NoiseSchedule,
    noise: Tensor,
    steps: int,
    conditions: Conditions = UNCONDITIONAL,
    decoder: Decoder | None = None,
    sampler: str | None = None,
    progress: Callable[[float], None] | None = None,
) -> SameNoise:
    """Sample `noise` `[N, *sample_shape]` under `conditions` `[N, ...]` to the end with every model, by default with
    the schedule's own `sampler`, and decode what are latents; `progress` hears the share done."""
    sampler = sampler or schedule.sampler
    calls = len(visited_timesteps(schedule, steps, sampler))
    total, done = (1 + len(candidates)) * math.ceil(len(noise) / BATCH) * calls, 0

    def count(_: Step) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(min(done / total, 1.0))

    def sample(model: EpsModel) -> Tensor:
        return final_samples(model, schedule, noise, steps, conditions, sampler, count)

    exact, samples = sample(reference), {name: sample(model) for name, model in candidates.items()}
    if decoder is None:
        return SameNoise(sampler, steps, exact, samples, schedule.sample_range)
    images = {name: decode(decoder, latents) for name, latents in samples.items()}
    before = SameNoise(sampler, steps, exact, samples, None)
    return SameNoise(sampler, steps, decode(decoder, exact), images, (-1.0, 1.0), before)


@torch.no_grad()
def decode(decoder: Decoder, samples: Tensor) -> Tensor:
    """Images `[N, C, H, W]` in [-1, 1] of latents `[N, ...]`, a few at a time."""
    return torch.cat([decoder(chunk) for chunk in torch.split(samples, DECODED_AT_ONCE)]).clamp(-1, 1)


def final_samples(
    model: EpsModel,
    schedule: NoiseSchedule,
    noise: Tensor,
    steps: int,
    conditions: Conditions = UNCONDITIONAL,
    sampler: str | None = None,
    callback: Callable[[Step], None] | None = None,
) -> Tensor:
    """x_0 of `noise` `[N, *sample_shape]`, by default with the schedule's own sampler, clamped to the range of images,
    if any, in batches of 64."""
    parts = zip(torch.split(noise, BATCH), batched(conditions, BATCH, len(noise)), strict=True)
    chunks = [
        sample_loop(model, make_scheduler(schedule, sampler), chunk, steps, given, callback=callback, seed=index)
        for index, (chunk, given) in enumerate(parts)
    ]
    samples = torch.cat(chunks)
    return samples if schedule.sample_range is None else samples.clamp(*schedule.sample_range)


def value_range(images: tuple[float, float] | None, reference: Tensor) -> tuple[float, float]:
    """The range of images (`NoiseSchedule.sample_range`), or that of the reference samples if they are none."""
    return images or (reference.min().item(), reference.max().item())


def psnr_db(reference: Tensor, candidate: Tensor, peak: float = PEAK) -> list[float]:
    """Peak signal to noise ratio of each sample of `[N, ...]`; infinite where they are equal.

    `peak` is the distance of the greatest from the least value that a sample can have: 2 in [-1, 1].
    """
    mean_square = (reference.double() - candidate.double()).square().flatten(1).mean(1)
    ratio = torch.where(mean_square == 0, math.inf, peak**2 / mean_square)
    values: list[float] = (10 * torch.log10(ratio)).tolist()
    return values
