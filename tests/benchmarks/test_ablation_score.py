"""The score of a network is its distance to full precision on held-out noise."""

import pytest
import torch
from ablation_net import tiny

from ptq_export.benchmarks.ablation import score as ablation_score
from ptq_export.benchmarks.ablation.score import fid_of_samples, full_precision, score
from ptq_export.benchmarks.same_noise import psnr_db
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation_score, "STEPS", 5)
    monkeypatch.setattr(ablation_score, "HELD_OUT", 3)


def test_full_precision_itself_has_no_error() -> None:
    exact = score(tiny(), full_precision(tiny()))
    assert (exact.sqnr_median_db, exact.sqnr_worst_db, exact.psnr_db) == (150, 150, 150)


def test_a_relative_error_of_eps_is_its_sqnr_and_the_worst_step_is_found() -> None:
    denoiser = tiny()
    reference = full_precision(denoiser)
    worst = sorted(reference.held_out.pairs)[1]
    found = score(lambda x, t: denoiser(x, t) * (0.5 if t[0] == worst else 0.9), reference)
    assert found.sqnr_median_db == pytest.approx(20, abs=1e-3)
    assert found.sqnr_worst_db == pytest.approx(6.0206, abs=1e-3)


def test_psnr_is_that_of_the_same_noise_sampled_to_the_end() -> None:
    denoiser = tiny()
    reference = full_precision(denoiser)
    found = score(lambda x, t: 0.9 * denoiser(x, t), reference)
    ends = [
        sample_loop(lambda x, t, f=f: f * denoiser(x, t), make_scheduler(denoiser.schedule), reference.noise, 5)
        for f in (1, 0.9)
    ]
    wanted = psnr_db(*(end.clamp(-1, 1) for end in ends))
    assert found.psnr_db == pytest.approx(sum(wanted) / 3, abs=1e-3)


def test_no_calibration_seed_reaches_the_held_out_noise() -> None:
    reference = full_precision(tiny())
    first = reference.held_out.pairs[max(reference.held_out.pairs)]
    calibration = torch.cat([initial_noise((3, 1, 8, 8), seed) for seed in range(50)])
    assert not any(torch.equal(x, y) for x in [*first, *reference.noise] for y in calibration)


def test_digit_fid_sees_noise_as_worse_than_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    from ptq_export.checkpoints import load_checkpoint

    monkeypatch.setattr(ablation_score, "FID_SAMPLES", 16)
    denoiser = load_checkpoint("embedded:digits")
    digits, noise = fid_of_samples(denoiser, denoiser), fid_of_samples(lambda x, t: 0 * x, denoiser)
    assert digits < 0.7 * noise
