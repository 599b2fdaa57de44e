"""A learned variance is cut off by halving the convolution that makes it."""

import pytest
import torch
from torch import Tensor, nn

from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.errors import InputError
from ptq_export.nn.drop_variance import drop_variance


class Net(nn.Module):
    """[eps, variance] = head(SiLU(stem(x))) + `shift`."""

    def __init__(self, bias: bool = True, shift: float | None = None) -> None:
        super().__init__()
        self.stem, self.head, self.shift = nn.Conv2d(2, 6, 1), nn.Conv2d(6, 4, 3, padding=1, bias=bias), shift

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        output: Tensor = self.head(nn.functional.silu(self.stem(sample)))
        return output if self.shift is None else output + self.shift


def denoiser(net: nn.Module, variance: str = "learned_range") -> Denoiser:
    module = net.eval().requires_grad_(False)
    return Denoiser(module, NoiseSchedule(variance_type=variance), (2, 4, 4), Source("toy", "toy", ""))


@pytest.mark.parametrize("bias", [True, False])
def test_what_is_left_is_eps_exactly(bias: bool) -> None:
    whole = denoiser(Net(bias))
    half = drop_variance(whole)
    sample, time = torch.randn(3, 2, 4, 4), torch.tensor([0, 1, 2])
    torch.testing.assert_close(half(sample, time), whole(sample, time)[:, :2])
    assert half.schedule == NoiseSchedule(variance_type="fixed_small", dropped_variance="learned_range")
    assert whole(sample, time).shape == (3, 4, 4, 4), "the original is untouched"


def test_a_net_without_it_is_returned_as_it_is() -> None:
    plain = denoiser(Net(), "fixed_large")
    assert drop_variance(plain) is plain


def test_an_output_that_no_convolution_makes_is_refused() -> None:
    with pytest.raises(InputError, match="cannot be cut off"):
        drop_variance(denoiser(Net(shift=1.0)))
