"""Soft layers start as the float layer, harden to the side they lean to, and never break the pair rule."""

import math

import pytest
import torch
from torch import Tensor, nn

from ptq_export.calibrators.grids import pairing_order
from ptq_export.calibrators.rounding import SoftLayer
from ptq_export.nn.layers import Grid
from ptq_export.nn.scheme import ORT_CPU, TENSORRT

U8 = torch.uint8


def noise(*shape: int, seed: int = 2) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def conv(inputs: int = 4, kernel: int = 3) -> nn.Conv2d:
    torch.manual_seed(2)
    return nn.Conv2d(inputs, 3, kernel, padding=kernel // 2).requires_grad_(False)


def soft_conv(layer: nn.Conv2d, learn: bool = True, output: Grid | None = None) -> SoftLayer:
    steps = torch.linspace(0.005, 0.05, layer.in_channels)
    return SoftLayer(layer, Grid(steps, torch.tensor(120, dtype=U8)), output, ORT_CPU, learn)


def test_a_soft_layer_starts_as_the_float_layer_behind_its_input_grid() -> None:
    layer = conv()
    soft, x = soft_conv(layer), noise(2, 4, 6, 6) * 0.2
    on_grid = ((x / soft.base_scale[:, None, None]).round().add(120).clamp(0, 255) - 120) * soft.base_scale[
        :, None, None
    ]
    torch.testing.assert_close(soft(x), layer(on_grid), atol=1e-5, rtol=1e-4)
    fraction = soft.ratio - soft.ratio.floor()
    torch.testing.assert_close(soft.rounding(), fraction, atol=1e-5, rtol=0)


def test_nearest_is_within_half_a_step_of_every_weight() -> None:
    soft = soft_conv(conv(), learn=False)
    codes = soft.harden().weight_codes.float()
    assert (codes - soft.ratio).abs().max() <= 0.5


def test_harden_takes_the_side_that_a_weight_leans_to() -> None:
    soft = soft_conv(conv())
    with torch.no_grad():
        soft.alpha.copy_(torch.where(noise(*soft.alpha.shape) > 0, 0.01, -0.01))
    up = (soft.alpha > 0).float()
    assert 0.2 < up.mean() < 0.8
    assert torch.equal(soft.harden().weight_codes.float(), (soft.ratio.floor() + up).clamp(-127, 127))


@pytest.mark.parametrize("output", [False, True], ids=["no output grid", "output grid"])
def test_the_hardened_layer_computes_what_the_soft_one_does(output: bool) -> None:
    grid = Grid(torch.tensor([0.01, 0.02, 0.03]), torch.tensor([100, 130, 128], dtype=U8)) if output else None
    soft, x = soft_conv(conv(), learn=False, output=grid), noise(2, 4, 6, 6)
    with torch.no_grad():
        soft.log_input_scale.fill_(math.log(1.3))
        soft.bias.add_(0.05)
    difference = (soft.harden()(x) - soft(x)).abs().amax((0, 2, 3))
    # A value within float rounding of a tie may take the neighbouring output code.
    bound = grid.scale * 1.001 if grid else torch.full((3,), 1e-3)
    assert (difference <= bound).all()
    assert ((soft.harden()(x) - soft(x)).abs() > 1e-3).float().mean() < 0.01


def broken_pairs(codes: Tensor, limit: int) -> int:
    """Same-sign adjacent pairs of the [kh, kw, cin] order with |a| + |b| > limit, counted one by one."""
    broken = 0
    for row in pairing_order(codes).tolist():
        for a, b in zip(row[0::2], row[1::2], strict=False):
            broken += a * b > 0 and abs(a) + abs(b) > limit
    return broken


def worst_case(layer: nn.Module) -> None:
    """Large weights of one sign beside ties, zeros, and opposite signs."""
    flat = layer.weight.view(3, -1)
    flat.mul_(0.1)
    flat[0] = torch.where(noise(flat.shape[1]) > 0, 1.0, 0.995)
    flat[1, : flat.shape[1] // 2] = -1.0
    flat[2, ::2] = 0.0


@pytest.mark.parametrize("rounding", ["nearest", "learned", "all up", "all down"])
@pytest.mark.parametrize("layer", [(4, 3), (3, 3), (5, 1)], ids=["even K", "odd K", "odd K, 1x1"])
def test_no_rounding_breaks_the_pair_rule(layer: tuple[int, int], rounding: str) -> None:
    float_layer = conv(*layer)
    worst_case(float_layer)
    soft = soft_conv(float_layer, learn=rounding != "nearest")
    if rounding.startswith("all"):
        nn.init.constant_(soft.alpha, 10.0 if rounding == "all up" else -10.0)
    elif rounding == "learned":
        nn.init.normal_(soft.alpha, generator=torch.Generator().manual_seed(0))
    codes = soft.harden().weight_codes
    assert codes.min() >= -127 and codes.max() <= 127
    assert codes.abs().max() >= 60
    assert broken_pairs(codes, 128) == 0
    assert broken_pairs(codes, 110) > 0


@pytest.mark.parametrize("columns", [8, 9])
def test_linears_keep_the_pair_rule_too(columns: int) -> None:
    layer = nn.Linear(columns, 3).requires_grad_(False)
    worst_case(layer)
    soft = SoftLayer(layer, Grid(torch.tensor(0.01), torch.tensor(0, dtype=U8)), None, ORT_CPU, learn=True)
    nn.init.constant_(soft.alpha, 10.0)
    assert broken_pairs(soft.harden().weight_codes, 128) == 0


def test_a_channel_without_weights_keeps_its_bias() -> None:
    layer = conv()
    layer.weight[1] = 0
    layer.bias[1] = 0.7
    output = Grid(torch.full((3,), 0.01), torch.full((3,), 128, dtype=U8))
    for grid in (None, output):
        y = soft_conv(layer, learn=False, output=grid).harden()(noise(1, 4, 5, 5))
        torch.testing.assert_close(y[:, 1], torch.full((1, 5, 5), 0.7), atol=1e-4, rtol=0)


def test_learning_moves_rounding_bias_and_input_step() -> None:
    soft = soft_conv(conv())
    soft(noise(2, 4, 6, 6)).square().sum().backward()
    for parameter in (soft.alpha, soft.bias, soft.log_input_scale):
        assert parameter.grad is not None and parameter.grad.abs().max() > 0


def tensorrt_layer(learn: bool) -> SoftLayer:
    return SoftLayer(conv(), Grid(torch.tensor(0.0371), torch.tensor(0, dtype=torch.int8)), None, TENSORRT, learn)


@pytest.mark.parametrize("learn", [False, True], ids=["nearest", "learned"])
def test_tensorrt_layers_have_scales_and_biases_that_float16_holds(learn: bool) -> None:
    soft = tensorrt_layer(learn)
    with torch.no_grad():
        soft.log_input_scale.fill_(math.log(1.1))
    state = soft.harden().state_dict()
    assert set(state) == {"weight_codes", "weight_scale", "bias", "input_scale", "input_zero_point"}
    assert state["input_zero_point"].dtype == torch.int8 and state["input_zero_point"] == 0
    for scale in (state["input_scale"], state["weight_scale"]):
        assert torch.equal(scale, scale.half().float()) and scale.min() >= 2**-14
    assert torch.equal(state["bias"], soft.layer.bias.half().float())


def test_a_tensorrt_layer_hardens_to_what_it_learned_and_its_scales_still_learn() -> None:
    soft, x = tensorrt_layer(learn=False), noise(2, 4, 6, 6)
    torch.testing.assert_close(soft.harden()(x), soft(x), atol=1e-4, rtol=0)
    soft(x).square().sum().backward()
    assert soft.log_input_scale.grad is not None and soft.log_input_scale.grad.abs() > 0


def test_without_a_pair_rule_weights_use_all_codes() -> None:
    layer = conv()
    worst_case(layer)
    soft = SoftLayer(layer, Grid(torch.tensor(0.1), torch.tensor(0, dtype=torch.int8)), None, TENSORRT, learn=False)
    assert soft.harden().weight_codes.abs().amax((1, 2, 3)).tolist() == [127, 127, 127]
