"""NaN and values past float32 are told with the layer and the time-step, as they come."""

import pytest
import torch
from calibrators_toys import PlainNet, denoiser_of, plain_denoiser, random_pairs
from torch import Tensor

from ptq_export.calibrators.finite import require_finite_output, require_usable
from ptq_export.calibrators.observe import observe
from ptq_export.calibrators.pairs import collect_pairs
from ptq_export.errors import InputError
from ptq_export.nn.scheme import ORT_CPU


class LateNaN(PlainNet):
    """NaN out of `body` at the time-steps 300 to 700 alone."""

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        late = (timestep - 500).abs() <= 200
        return super().forward(torch.where(late.view(-1, 1, 1, 1), torch.nan, sample), timestep)


def test_the_first_layer_and_its_time_step_are_named() -> None:
    denoiser = denoiser_of(LateNaN(), (1, 5, 5))
    sample = torch.zeros(3, 1, 5, 5)
    require_finite_output(denoiser, sample, torch.tensor([0, 200, 999]))
    with pytest.raises(InputError, match=r"^stem makes NaN or infinite values at time-step 600"):
        require_finite_output(denoiser, sample, torch.tensor([0, 600, 500]))


def test_pairs_are_checked_step_by_step() -> None:
    denoiser = denoiser_of(LateNaN(), (1, 5, 5))
    done: list[int] = []
    with pytest.raises(InputError, match=r"stem makes NaN .* at time-step 700"):
        collect_pairs(denoiser, 2, 10, "uniform", 0, done.append)
    assert sum(done) == 2 * 2  # 900 and 800


def test_activations_past_float32_are_named_while_ranges_are_sought() -> None:
    denoiser = plain_denoiser()
    pairs = random_pairs(denoiser, 4)
    denoiser.module.get_submodule("stem").weight.mul_(1e30)
    with pytest.raises(InputError, match=r"body.0 reads or makes values up to \d\.\de\+\d+ at time-step 0"):
        observe(denoiser, pairs, ("body.0", "body.2"), ORT_CPU)


def test_large_is_not_too_large() -> None:
    require_usable("layer", torch.full((2, 3), 1e14), torch.tensor([1, 2]))
    require_usable("layer", torch.zeros(2, 3), torch.tensor([1, 2]))
