"""CleanEstimate: x_0 in the middle of a loop, for every kind of prediction."""

import pytest
import torch

from ptq_export.clean_estimate import CleanEstimate
from ptq_export.denoiser import NoiseSchedule
from ptq_export.sampling import Step, initial_noise
from ptq_export.schedulers import alphas_cumprod


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample", "flow"])
def test_it_is_the_x_0_that_the_network_predicts(prediction: str) -> None:
    schedule = NoiseSchedule(prediction_type=prediction)
    clean, noise = torch.rand(1, 1, 8, 8) * 2 - 1, initial_noise((1, 1, 8, 8), 1)
    alpha = alphas_cumprod(schedule)[400]
    signal, rest = (alpha.sqrt(), (1 - alpha).sqrt()) if prediction != "flow" else (0.6, 0.4)
    output = {
        "epsilon": noise,
        "v_prediction": signal * noise - rest * clean,
        "sample": clean,
        "flow": noise - clean,
    }[prediction]
    noisy = signal * clean + rest * noise
    torch.testing.assert_close(CleanEstimate(schedule)(Step(0, 400, noisy, output, noisy)), clean, rtol=0, atol=1e-5)


def test_a_learned_variance_behind_eps_is_left_out() -> None:
    x, schedule = initial_noise((2, 3, 4, 4), 0), NoiseSchedule()
    estimate = CleanEstimate(schedule)
    alone, both = x * 0.1, torch.cat([x * 0.1, torch.full_like(x, 9.0)], dim=1)
    assert torch.equal(estimate(Step(0, 10, x, both, x)), estimate(Step(0, 10, x, alone, x)))


def test_it_is_finite_where_nothing_of_x_0_is_left() -> None:
    x, schedule = initial_noise((1, 3, 4, 4), 0), NoiseSchedule(rescale_betas_zero_snr=True)
    assert CleanEstimate(schedule)(Step(0, 999, x, x * 0.5, x)).isfinite().all()
