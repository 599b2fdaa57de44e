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
from ptq_export.sampling import EpsModel, Step, make_scheduler, sample_loop

__all__ = ["SameNoise", "final_samples", "psnr_db", "same_noise_psnr"]

PEAK = 2.0  # images live in [-1, 1]


@dataclass(frozen=True)
class SameNoise:
    """Final samples `[N, C, H, W]` in [-1, 1] of the reference and of every candidate from one noise."""

    sampler: str
    steps: int
    reference: Tensor
    candidates: Mapping[str, Tensor]

    def to_json(self) -> dict[str, Any]:
        """`psnr` in `fidelity.json`; identical samples count as 150 dB."""
        values = {}
        for name, samples in self.candidates.items():
            each = [finite_db(value) for value in psnr_db(self.reference, samples)]
            values[name] = {"mean_db": round(sum(each) / len(each), 4), "min_db": min(each)}
        return {"sampler": self.sampler, "steps": self.steps, "samples": len(self.reference), "values": values}


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
    total, done = (1 + len(candidates)) * math.ceil(len(noise) / BATCH) * steps, 0

    def count(_: Step) -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(min(done / total, 1.0))

    def sample(model: EpsModel) -> Tensor:
        return final_samples(model, schedule, noise, steps, *label, sampler=sampler, callback=count)

    exact = sample(reference)
    return SameNoise(sampler, steps, exact, {name: sample(model) for name, model in candidates.items()})


def final_samples(
    model: EpsModel,
    schedule: NoiseSchedule,
    noise: Tensor,
    steps: int,
    *label: Tensor,
    sampler: str = "ddim",
    callback: Callable[[Step], None] | None = None,
) -> Tensor:
    """x_0 of `noise` `[N, C, H, W]`, clamped to [-1, 1]; memory is bounded by batches of 64."""
    chunks = [
        sample_loop(model, make_scheduler(schedule, sampler), chunk, steps, *given, callback=callback, seed=index)
        for index, (chunk, *given) in enumerate(batches(noise, *label))
    ]
    return torch.cat(chunks).clamp(-1, 1)


def psnr_db(reference: Tensor, candidate: Tensor) -> list[float]:
    """Peak signal to noise ratio of each sample of `[N, C, H, W]` in [-1, 1]; infinite where they are equal."""
    mean_square = (reference.double() - candidate.double()).square().flatten(1).mean(1)
    values: list[float] = (10 * torch.log10(PEAK**2 / mean_square)).tolist()
    return values
