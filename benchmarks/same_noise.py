"""Final samples of the same noise: the figure that ranks variants (FID can't tell one W8A8 net from another)."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptq_export.benchmarks.fidelity import finite_db
from ptq_export.benchmarks.held_out import BATCH, batches
from ptq_export.denoiser import NoiseSchedule
from ptq_export.sampling import EpsModel, Step, make_scheduler, sample_loop, visited_timesteps

__all__ = ["SameNoise", "final_samples", "psnr_db", "same_noise_psnr", "value_range"]

PEAK = 2.0  # images live in [-1, 1]


@dataclass(frozen=True)
class SameNoise:
    """Final samples `[N, C, H, W]` of the reference and of every candidate from one noise.

    `images` is the range of samples whose schedule clips them; others, latents, have the range of the reference.
    """

    sampler: str
    steps: int
    reference: Tensor
    candidates: Mapping[str, Tensor]
    images: tuple[float, float] | None = (-1.0, 1.0)

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
        told = {"range": [low, high], "range_of": "images" if self.images else "reference samples"}
        return {"sampler": self.sampler, "steps": self.steps, "samples": len(self.reference), **told, "values": values}


def same_noise_psnr(
    reference: EpsModel,
    candidates: Mapping[str, EpsModel],
    schedule: NoiseSchedule,
    noise: Tensor,
    steps: int,
    *label: Tensor,
    sampler: str = "ddim",
    progress: Callable[[float], None] | None = None,
) -> SameNoise:
    """Sample `noise` `[N, C, H, W]` (of classes `label` `[N]`) to the end with every model; `progress` hears the share
    done."""
    calls = len(visited_timesteps(schedule, steps, sampler))
    total, done = (1 + len(candidates)) * math.ceil(len(noise) / BATCH) * calls, 0

    def count(_: Step) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(min(done / total, 1.0))

    def sample(model: EpsModel) -> Tensor:
        return final_samples(model, schedule, noise, steps, *label, sampler=sampler, callback=count)

    exact = sample(reference)
    samples = {name: sample(model) for name, model in candidates.items()}
    return SameNoise(sampler, steps, exact, samples, schedule.sample_range)


def final_samples(
    model: EpsModel,
    schedule: NoiseSchedule,
    noise: Tensor,
    steps: int,
    *label: Tensor,
    sampler: str = "ddim",
    callback: Callable[[Step], None] | None = None,
) -> Tensor:
    """x_0 of `noise` `[N, C, H, W]`, clamped to the range of images, if any; memory is bounded by batches of 64."""
    chunks = [
        sample_loop(model, make_scheduler(schedule, sampler), chunk, steps, *given, callback=callback, seed=index)
        for index, (chunk, *given) in enumerate(batches(noise, *label))
    ]
    samples = torch.cat(chunks)
    return samples if schedule.sample_range is None else samples.clamp(*schedule.sample_range)


def value_range(images: tuple[float, float] | None, reference: Tensor) -> tuple[float, float]:
    """The range of images (`NoiseSchedule.sample_range`), or that of the reference samples if they are none."""
    return images or (reference.min().item(), reference.max().item())


def psnr_db(reference: Tensor, candidate: Tensor, peak: float = PEAK) -> list[float]:
    """Peak signal to noise ratio of each sample of `[N, C, H, W]`; infinite where they are equal.

    `peak` is the distance of the greatest from the least value that a sample can have: 2 in [-1, 1].
    """
    mean_square = (reference.double() - candidate.double()).square().flatten(1).mean(1)
    ratio = torch.where(mean_square == 0, math.inf, peak**2 / mean_square)
    values: list[float] = (10 * torch.log10(ratio)).tolist()
    return values
