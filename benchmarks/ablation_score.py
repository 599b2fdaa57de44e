"""The score of a quantised network on noise that calibration never saw, against what full precision makes of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor

from ptq_export.benchmarks.fid import digit_fid, real_digit_features
from ptq_export.benchmarks.fidelity import finite_db, sqnr_db
from ptq_export.benchmarks.held_out import HELD_OUT_SEEDS, held_out_noise, held_out_pairs, sampler_timesteps
from ptq_export.benchmarks.same_noise import final_samples, psnr_db
from ptq_export.denoiser import Denoiser, NoiseSchedule
from ptq_export.sampling import EpsModel

__all__ = ["HeldOut", "Score", "fid_of_samples", "held_out", "score"]

STEPS, TIMESTEPS = 20, 10
HELD_OUT, FID_SAMPLES = 32, 256


@dataclass(frozen=True)
class Score:
    """SQNR of eps over time-steps, PSNR of the final samples of the same noise (mean over samples)."""

    sqnr_median_db: float
    sqnr_worst_db: float
    psnr_db: float


@dataclass(frozen=True)
class HeldOut:
    """x_t and its eps by time-step t, `[N, C, H, W]` each; noise and the samples that it ends in; labels if any."""

    schedule: NoiseSchedule
    pairs: Mapping[int, Tensor]
    eps: Mapping[int, Tensor]
    noise: Tensor
    samples: Tensor
    label: tuple[Tensor, ...]


def held_out(denoiser: Denoiser) -> HeldOut:
    """What full precision makes of `HELD_OUT` noises, and of the x_t of as many others at `TIMESTEPS` times."""
    schedule, shape = denoiser.schedule, denoiser.sample_shape
    timesteps = sampler_timesteps(schedule, STEPS, TIMESTEPS)
    label = denoiser.labels(HELD_OUT, HELD_OUT_SEEDS)
    pairs = held_out_pairs(denoiser, schedule, shape, timesteps, HELD_OUT, 1, STEPS, *label)
    eps = {t: denoiser(sample, _times(sample, t), *label) for t, sample in pairs.items()}
    noise = held_out_noise((HELD_OUT, *shape), seed=2)
    return HeldOut(schedule, pairs, eps, noise, final_samples(denoiser, schedule, noise, STEPS, *label), label)


@torch.no_grad()
def score(model: EpsModel, reference: HeldOut) -> Score:
    """The score of `model`."""
    label = reference.label
    sqnr = [
        finite_db(sqnr_db(reference.eps[t], model(sample, _times(sample, t), *label)))
        for t, sample in reference.pairs.items()
    ]
    samples = final_samples(model, reference.schedule, reference.noise, STEPS, *label)
    psnr = [finite_db(value) for value in psnr_db(reference.samples, samples)]
    return Score(round(median(sqnr), 4), min(sqnr), round(fmean(psnr), 4))


@torch.no_grad()
def fid_of_samples(model: EpsModel, reference: HeldOut) -> float:
    """Digit-FID of `FID_SAMPLES` samples; only meaningful for a model of digits `[N, 1, 16, 16]`."""
    noise = held_out_noise((FID_SAMPLES, *reference.noise.shape[1:]), seed=3)
    samples = final_samples(model, reference.schedule, noise, STEPS)
    return round(digit_fid(real_digit_features(), samples), 4)


def _times(sample: Tensor, timestep: int) -> Tensor:
    return torch.full((len(sample),), timestep, dtype=torch.int64)
