"""The score of a quantised network on noise that calibration never saw, against what full precision makes of it."""

from dataclasses import dataclass
from statistics import fmean, median

import torch
from torch import Tensor

from ptq_export.benchmarks.fid import digit_fid, real_digit_features
from ptq_export.benchmarks.fidelity import finite_db, sqnr_per_timestep
from ptq_export.benchmarks.held_out import HELD_OUT_SEEDS, HeldOut, held_out_noise, held_out_pairs
from ptq_export.benchmarks.same_noise import final_samples, psnr_db, same_noise_psnr
from ptq_export.denoiser import Denoiser
from ptq_export.sampling import EpsModel

__all__ = ["FullPrecision", "Score", "fid_of_samples", "full_precision", "score"]

STEPS, TIMESTEPS = 20, 10
HELD_OUT, FID_SAMPLES = 32, 256


@dataclass(frozen=True)
class Score:
    """SQNR of eps over time-steps, PSNR of the final samples of the same noise (mean over samples)."""

    sqnr_median_db: float
    sqnr_worst_db: float
    psnr_db: float


@dataclass(frozen=True)
class FullPrecision:
    """What every setting is held against: the denoiser, its held-out pairs, and other noise `[N, C, H, W]`."""

    denoiser: Denoiser
    held_out: HeldOut
    noise: Tensor


def full_precision(denoiser: Denoiser) -> FullPrecision:
    """`denoiser` on `HELD_OUT` noises, and on the x_t of as many others at `TIMESTEPS` times."""
    schedule, shape = denoiser.schedule, denoiser.sample_shape
    conditions = denoiser.draw(HELD_OUT, HELD_OUT_SEEDS)
    held_out = held_out_pairs(denoiser, schedule, shape, STEPS, TIMESTEPS, HELD_OUT, 1, conditions, denoiser.guidance)
    return FullPrecision(denoiser, held_out, held_out_noise((HELD_OUT, *shape), seed=2))


@torch.no_grad()
def score(model: EpsModel, reference: FullPrecision) -> Score:
    """The score of `model`."""
    denoiser, held_out = reference.denoiser, reference.held_out
    curve = sqnr_per_timestep(denoiser, {"model": model}, held_out)["model"]
    sqnr = [finite_db(value) for value in curve.sqnr_db]
    exact, found = denoiser.guided(denoiser), {"model": denoiser.guided(model)}
    same = same_noise_psnr(exact, found, denoiser.schedule, reference.noise, STEPS, held_out.conditions)
    low, high = same.range
    psnr = [finite_db(value) for value in psnr_db(same.reference, same.candidates["model"], high - low)]
    return Score(round(median(sqnr), 4), min(sqnr), round(fmean(psnr), 4))


@torch.no_grad()
def fid_of_samples(model: EpsModel, denoiser: Denoiser) -> float:
    """Digit-FID of `FID_SAMPLES` samples; only meaningful for a model of digits `[N, 1, 16, 16]`."""
    noise = held_out_noise((FID_SAMPLES, *denoiser.sample_shape), seed=3)
    samples = final_samples(model, denoiser.schedule, noise, STEPS)
    return round(digit_fid(real_digit_features(), samples), 4)
