import json
import math

import pytest
import torch
from torch import Tensor

from ptq_export.benchmarks.fidelity import finite_db, sqnr_db, sqnr_gap_db, sqnr_per_timestep, step_error
from ptq_export.benchmarks.held_out import HeldOut
from ptq_export.denoiser import NoiseSchedule

SCHEDULE = NoiseSchedule(clip_sample=False)


def exact(sample: Tensor, timestep: Tensor) -> Tensor:
    return sample


def held_out(count: int = 8) -> HeldOut:
    generator = torch.Generator().manual_seed(0)
    return HeldOut(SCHEDULE, 20, {t: torch.randn(count, 1, 8, 8, generator=generator) for t in (900, 450, 0)})


def test_sqnr_of_a_known_ratio() -> None:
    reference = torch.tensor([3.0, 4.0])
    assert sqnr_db(reference, reference * 0.9) == pytest.approx(20, abs=1e-5)
    assert sqnr_db(reference, torch.zeros(2)) == 0
    assert sqnr_db(reference, reference) == math.inf
    assert sqnr_db(torch.zeros(2), reference) == -math.inf


def test_decibels_fit_into_json() -> None:
    assert [finite_db(value) for value in (math.inf, 33.33333, -math.inf, math.nan)] == [150, 33.3333, -150, -150]


def test_curve_of_a_relative_error_is_flat_and_certain() -> None:
    curve = sqnr_per_timestep(exact, {"c": lambda x, t: 1.01 * x}, held_out())["c"]
    assert curve.timesteps == (900, 450, 0)
    assert curve.sqnr_db == pytest.approx([40, 40, 40], abs=1e-3)
    assert curve.stderr_db == pytest.approx([0, 0, 0], abs=1e-4)


def test_bias_is_the_mean_error_in_units_of_eps() -> None:
    curve = sqnr_per_timestep(exact, {"c": lambda x, t: x + 0.1}, held_out())["c"]
    rms = [sample.square().mean().sqrt().item() for sample in held_out().pairs.values()]
    assert curve.bias == pytest.approx([0.1 / value for value in rms], rel=1e-5)


def test_standard_error_agrees_with_repetition() -> None:
    generator = torch.Generator().manual_seed(1)
    samples = {t: torch.randn(16, 1, 2, 2, generator=generator) for t in range(0, 800, 2)}
    rough = {"c": lambda x, t: x + 0.1 * torch.randn(x.shape, generator=generator)}
    noisy = sqnr_per_timestep(exact, rough, HeldOut(SCHEDULE, 20, samples))["c"]
    seen = torch.tensor(noisy.sqnr_db).std().item()
    assert torch.tensor(noisy.stderr_db).mean().item() == pytest.approx(seen, rel=0.15)


def test_gap_of_two_candidates_is_surer_than_their_curves() -> None:
    def rough(x: Tensor, t: Tensor) -> Tensor:
        return x + 0.1 * x.abs().amax((1, 2, 3), keepdim=True)

    curves = sqnr_per_timestep(exact, {"a": rough, "b": lambda x, t: 2 * rough(x, t) - x}, held_out())
    for (gap_db, stderr_db), own in zip(sqnr_gap_db(curves["a"], curves["b"]), curves["a"].stderr_db, strict=True):
        assert gap_db == pytest.approx(20 * math.log10(2), abs=1e-4)
        assert stderr_db < 1e-3 < own


def test_step_error_is_the_ddim_update_of_the_error() -> None:
    sample = held_out().pairs[450]
    error = 0.01 * torch.ones_like(sample)
    t, previous = 450, 400
    alphas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).neg().add(1).cumprod(0)
    now, then = alphas[t], alphas[previous]
    weight = (1 - then).sqrt() - (then / now).sqrt() * (1 - now).sqrt()
    clean = (sample.double() - (1 - now).sqrt() * sample) / now.sqrt()
    update = then.sqrt() * clean + (1 - then).sqrt() * sample
    expected = (weight * error.double()).norm() / update.norm()
    assert step_error(sample, sample + error, sample, t, SCHEDULE, 20) == pytest.approx(expected.item(), rel=1e-4)


def test_exact_candidate_is_finite_in_json_and_has_no_error() -> None:
    shares: list[float] = []
    exactly = sqnr_per_timestep(exact, {"c": exact}, held_out(70), shares.append)["c"]
    curve = exactly.to_json()
    assert sqnr_gap_db(exactly, exactly) == [(0, 0)] * 3
    assert curve["sqnr_db"] == [150, 150, 150]
    assert curve["sqnr_stderr_db"] == curve["bias"] == curve["step_error"] == [0, 0, 0]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])
    json.dumps(curve, allow_nan=False)
