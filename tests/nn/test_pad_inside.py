"""The padding of a downsampling moves into its convolution, and nothing changes but where it is."""

import torch
from diffusers.models.downsampling import Downsample2D
from torch import nn
from two_levels import two_levels

from ptq_export.calibrators.rounding import SoftLayer
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.nn.convolution import PaddedConv2d
from ptq_export.nn.layers import Grid
from ptq_export.nn.pad_inside import pad_inside
from ptq_export.nn.scheme import TENSORRT


def test_the_network_computes_the_same_under_the_same_names() -> None:
    before = two_levels(padding=0)
    after = pad_inside(before)
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([3, 700])
    torch.testing.assert_close(after(x, t), before(x, t), rtol=0, atol=1e-6)
    assert set(after.module.state_dict()) == set(before.module.state_dict())
    assert [type(module) for module in after.module.modules() if isinstance(module, PaddedConv2d)] == [PaddedConv2d]
    assert not [module for module in before.module.modules() if isinstance(module, PaddedConv2d)]


def test_a_network_that_pads_both_sides_stays_as_it_is() -> None:
    given = two_levels(padding=1)
    assert pad_inside(given) is given


def test_the_convolution_s_older_name_is_the_same_one() -> None:
    """diffusers registers it twice in a `Downsample2D` of the default name."""
    torch.manual_seed(0)
    net, x = nn.Sequential(Downsample2D(4, use_conv=True, padding=0)).requires_grad_(False), torch.randn(1, 4, 8, 8)
    after = pad_inside(Denoiser(net, NoiseSchedule(), (4, 8, 8), Source("net", "test", "0"))).module
    assert after[0].conv is after[0].Conv2d_0 and isinstance(after[0].conv, PaddedConv2d)
    torch.testing.assert_close(after(x), net(x))


def test_a_quantised_layer_pads_behind_its_quantiser() -> None:
    torch.manual_seed(0)
    padded = PaddedConv2d(nn.Conv2d(16, 16, 3, stride=2).requires_grad_(False), (0, 1, 0, 1))
    grid = Grid(torch.tensor(2.0**-5), torch.tensor(0, dtype=torch.int8))
    soft, x = SoftLayer(padded, grid, None, TENSORRT, learn=False), torch.randn(2, 16, 8, 8)
    assert soft(x).shape == padded(x).shape == (2, 16, 4, 4)
    torch.testing.assert_close(soft.harden()(x), soft(x), atol=1e-4, rtol=0)
    assert (soft(x) - padded(x)).abs().mean() < 0.05 * padded(x).abs().mean()
