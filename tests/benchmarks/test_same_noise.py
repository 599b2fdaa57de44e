import json
import math

import pytest
import torch
from torch import Tensor

from ptq_export.benchmarks.held_out import held_out_noise
from ptq_export.benchmarks.same_noise import final_samples, psnr_db, same_noise_psnr
from ptq_export.checkpoints.conventions import ERMONGROUP
from ptq_export.denoiser import NoiseSchedule

SCHEDULE = NoiseSchedule()


def exact(sample: Tensor, timestep: Tensor) -> Tensor:
    assert len(sample) <= 64
    return 0.9 * sample


def rough(sample: Tensor, timestep: Tensor) -> Tensor:
    return 0.89 * sample


def test_psnr_of_a_known_error() -> None:
    black, white = -torch.ones(1, 1, 2, 2), torch.ones(1, 1, 2, 2)
    assert psnr_db(black, white) == [0]
    assert psnr_db(black, black + 0.02) == pytest.approx([40], abs=1e-4)
    assert psnr_db(black, black) == [math.inf]


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpm-solver++"])
def test_every_sample_is_compared_with_its_own_noise(sampler: str) -> None:
    noise = held_out_noise((70, 1, 4, 4), 0)
    result = same_noise_psnr(
        exact, {"int8": rough, "same": lambda x, t: exact(x, t)}, SCHEDULE, noise, 5, sampler=sampler
    )
    entry = result.to_json()
    each = psnr_db(result.reference, result.candidates["int8"])
    assert (entry["sampler"], entry["steps"], entry["samples"]) == (sampler, 5, 70)
    assert entry["values"]["int8"]["min_db"] == pytest.approx(min(each), abs=1e-4)
    assert entry["values"]["int8"]["mean_db"] == pytest.approx(sum(each) / 70, abs=1e-3)
    assert entry["values"]["same"] == {"mean_db": 150, "min_db": 150}
    json.dumps(entry, allow_nan=False)


@pytest.mark.parametrize(
    ("schedule", "largest"),
    [(NoiseSchedule(conventions=ERMONGROUP), 1), (NoiseSchedule(clip_sample_range=2.0), 2)],
)
def test_images_stay_within_their_range(schedule: NoiseSchedule, largest: float) -> None:
    noise = 9 * held_out_noise((3, 1, 4, 4), 0)
    samples = final_samples(lambda x, t: -x, schedule, noise, 5)
    assert samples.shape == noise.shape
    assert samples.abs().max() == largest


def test_latents_are_not_clamped_and_their_own_range_is_the_peak() -> None:
    noise = held_out_noise((3, 4, 4, 4), 0)
    result = same_noise_psnr(exact, {"int8": rough}, NoiseSchedule(clip_sample=False), noise, 5)
    entry, low, high = result.to_json(), result.reference.min().item(), result.reference.max().item()
    assert high > 1
    assert (entry["range"], entry["range_of"]) == ([low, high], "reference samples")
    error = (result.reference - result.candidates["int8"]).double().square().mean((1, 2, 3))
    expected = (10 * torch.log10((high - low) ** 2 / error)).mean().item()
    assert entry["values"]["int8"]["mean_db"] == pytest.approx(expected, abs=1e-3)


def test_progress_counts_every_step_of_every_model() -> None:
    shares: list[float] = []
    same_noise_psnr(exact, {"int8": rough}, SCHEDULE, held_out_noise((70, 1, 2, 2), 0), 2, progress=shares.append)
    assert shares == [(index + 1) / 8 for index in range(8)]


def test_latents_are_decoded_before_they_are_compared() -> None:
    """A decoder that halves makes a fourth of the error energy; images are clipped to [-1, 1]."""
    noise = held_out_noise((5, 4, 4, 4), 0)
    schedule = NoiseSchedule(clip_sample=False)
    plain = same_noise_psnr(exact, {"int8": rough}, schedule, noise, 5)
    decoded = same_noise_psnr(exact, {"int8": rough}, schedule, noise, 5, decoder=lambda latent: latent[:, :3] / 2)
    assert decoded.images == (-1.0, 1.0) and decoded.reference.shape == (5, 3, 4, 4)
    torch.testing.assert_close(decoded.reference, (plain.reference[:, :3] / 2).clamp(-1, 1))
