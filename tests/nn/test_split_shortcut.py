"""Split shortcuts: equal in float, only where a 1x1 convolution reads a concat of two."""

import torch
from torch import nn
from two_levels import two_levels

from ptq_export.denoiser import Denoiser
from ptq_export.nn.split_shortcut import SplitConv2d, split_shortcuts


def test_split_halves_add_up_to_the_convolution() -> None:
    torch.manual_seed(0)
    conv, x = nn.Conv2d(7, 4, 1), torch.randn(2, 7, 3, 3)
    torch.testing.assert_close(SplitConv2d(conv, 3)(x), conv(x))


def test_every_shortcut_over_a_skip_is_split_and_eps_stays() -> None:
    denoiser = two_levels()
    split = split_shortcuts(denoiser)
    names = [name for name, module in split.module.named_modules() if isinstance(module, SplitConv2d)]
    assert names == [f"unet.up_blocks.{block}.resnets.{index}.conv_shortcut" for block in (0, 1) for index in (0, 1)]
    sample = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    times = torch.tensor([3, 900])
    torch.testing.assert_close(split(sample, times), denoiser(sample, times), atol=1e-5, rtol=1e-5)


def test_a_net_without_a_skip_is_left_alone() -> None:
    denoiser = two_levels()
    plain = Denoiser(_Plain(), denoiser.schedule, denoiser.sample_shape, denoiser.source)
    assert not any(isinstance(module, SplitConv2d) for module in split_shortcuts(plain).module.modules())


class _Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.conv(sample)
        return result
