"""Quantised layers compute what an int8 engine computes, and their buffers carry both grids exactly."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from ptq_export.nn.layers import (
    Grid,
    LayerCodes,
    PointwiseConv2d,
    QuantisedConv2d,
    QuantisedLinear,
    layer_state,
    quantised_layer,
)

U8 = torch.uint8
GENERATOR_SEED = 5


def conv(**options: object) -> nn.Conv2d:
    torch.manual_seed(GENERATOR_SEED)
    return nn.Conv2d(3, 4, 3, **options).requires_grad_(False)


def codes_of(layer: nn.Module, channels: bool, output: bool) -> LayerCodes:
    """Random codes on uneven grids: input steps `[I]` or a scalar, an output grid `[O]` or none."""
    generator = torch.Generator().manual_seed(GENERATOR_SEED)
    rows, columns = layer.weight.shape[:2]
    codes = torch.randint(-127, 128, layer.weight.shape, generator=generator, dtype=torch.int8)
    step = torch.rand(rows, generator=generator) * 1e-3 + 1e-4
    steps = torch.rand(columns, generator=generator) * 0.02 + 0.001 if channels else torch.tensor(0.013)
    zero_points = torch.randint(100, 156, (rows,), generator=generator, dtype=U8)
    grid = Grid(torch.rand(rows, generator=generator) * 0.003 + 0.002, zero_points) if output else None
    return LayerCodes(codes, step, layer.bias.detach(), Grid(steps, torch.tensor(77, dtype=U8)), grid)


def integer_accumulator(learned: LayerCodes, like: nn.Conv2d, x: Tensor) -> Tensor:
    """sum (q - z) c + b in int64, by unfolding: `[N, O, positions]`."""
    steps = learned.input.scale.reshape(1, -1, 1, 1).double()
    q = (x.double() / steps).round().add(77).clamp(0, 255) - 77
    columns = functional.unfold(q, like.kernel_size, like.dilation, like.padding, like.stride).long()
    bias = layer_state(learned)["bias_codes"].long()
    return torch.einsum("ok,nkp->nop", learned.codes.flatten(1).long(), columns) + bias[:, None]


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(GENERATOR_SEED + 1))


@pytest.mark.parametrize("channels", [False, True], ids=["one input step", "input steps per channel"])
@pytest.mark.parametrize("options", [{"padding": 1}, {"stride": 2}, {"padding": 2, "dilation": 2}], ids=str)
def test_convolution_equals_integer_arithmetic(options: dict[str, int], channels: bool) -> None:
    like = conv(**options)
    learned, x = codes_of(like, channels, output=True), noise(2, 3, 7, 7)
    state = layer_state(learned)
    y = integer_accumulator(learned, like, x).double() * state["bias_scale"].double()[:, None]
    zero_points = learned.output.zero_point[:, None].double()
    wanted = (y.round().clamp(0, 255) - zero_points) * learned.output.scale[:, None].double()
    assert 0 < ((y < 0) | (y > 255)).float().mean() < 0.9
    torch.testing.assert_close(QuantisedConv2d(state, like)(x).flatten(2), wanted.float())


def test_without_an_output_grid_the_accumulator_is_returned_in_float() -> None:
    like = conv(padding=1)
    learned, x = codes_of(like, channels=True, output=False), noise(2, 3, 7, 7)
    wanted = integer_accumulator(learned, like, x) * layer_state(learned)["bias_scale"][:, None]
    torch.testing.assert_close(QuantisedConv2d(layer_state(learned), like)(x).flatten(2), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("channels", [False, True], ids=["one input step", "input steps per channel"])
def test_rows_of_pixels_give_the_convolution_of_one_pixel(channels: bool) -> None:
    like = nn.Conv2d(5, 4, 1).requires_grad_(False)
    learned, x = codes_of(like, channels, output=False), noise(2, 5, 3, 7)
    wanted = integer_accumulator(learned, like, x) * layer_state(learned)["bias_scale"][:, None]
    layer = quantised_layer(layer_state(replace(learned, codes=learned.codes.flatten(1))), like)
    assert type(layer) is PointwiseConv2d
    torch.testing.assert_close(layer(x).flatten(2), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer.fake_input(x), QuantisedConv2d(layer_state(learned), like).fake_input(x))


def test_linear_equals_integer_arithmetic_on_every_leading_shape() -> None:
    like = nn.Linear(5, 4).requires_grad_(False)
    learned, x = codes_of(like, channels=False, output=False), noise(2, 3, 6, 5)
    state = layer_state(learned)
    q = (x / 0.013).round().add(77).clamp(0, 255).long() - 77
    wanted = (q @ learned.codes.long().t() + state["bias_codes"]) * state["bias_scale"]
    layer = QuantisedLinear(state)
    torch.testing.assert_close(layer(x), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(layer(x[0, 0]), wanted[0, 0], atol=1e-5, rtol=1e-5)


def test_folding_loses_at_most_half_an_output_step() -> None:
    """With grids that clip nothing: |layer - float conv of the dequantised operands| <= sigma / 2."""
    like = conv(padding=1)
    learned, x = codes_of(like, channels=True, output=True), noise(2, 3, 7, 7) * 0.05
    layer = QuantisedConv2d(layer_state(learned), like)
    unfolded = learned.codes * learned.scale[:, None, None, None]
    unfolded = unfolded * (learned.input.scale.max() / learned.input.scale)[:, None, None]
    y = functional.conv2d(layer.fake_input(x), unfolded, learned.bias, padding=1)
    error = (layer(x) - y).abs().amax((0, 2, 3)) / learned.output.scale
    assert (layer.fake_output(y) - y).abs().amax() < learned.output.scale.amax()
    assert 0.4 < error.max() <= 0.501


def test_input_codes_clip_at_the_ends_of_the_grid() -> None:
    like = conv()
    learned = codes_of(like, channels=True, output=False)
    layer = QuantisedConv2d(layer_state(learned), like)
    far = torch.full((1, 3, 1, 1), 1e3)
    expected = torch.stack([-77 * learned.input.scale, 178 * learned.input.scale])
    torch.testing.assert_close(torch.cat([layer.fake_input(-far), layer.fake_input(far)])[:, :, 0, 0], expected)


def test_state_has_only_the_buffers_that_its_grids_need() -> None:
    like = conv()
    plain = {"weight_codes", "weight_scale", "bias_codes", "bias_scale", "input_scale", "input_zero_point"}
    assert set(layer_state(codes_of(like, channels=False, output=False))) == plain
    full = layer_state(codes_of(like, channels=True, output=True))
    assert set(full) - plain == {"input_gain", "output_scale", "output_zero_point"}
    assert set(quantised_layer(full, like).state_dict()) == set(full)


def test_the_int32_bias_keeps_the_float_bias_to_half_an_accumulator_step() -> None:
    learned = codes_of(conv(), channels=True, output=True)
    state = layer_state(learned)
    wanted = learned.bias.double() / learned.output.scale.double() + learned.output.zero_point
    error = (state["bias_codes"].double() * state["bias_scale"].double() - wanted).abs()
    assert (error <= 0.5001 * state["bias_scale"]).all()


@pytest.mark.parametrize("like", [nn.Conv2d(3, 4, 3), nn.Linear(3, 4)], ids=["conv", "linear"])
def test_the_integer_form_is_of_the_float_layers_kind(like: nn.Module) -> None:
    kind = QuantisedConv2d if isinstance(like, nn.Conv2d) else QuantisedLinear
    assert type(quantised_layer(layer_state(codes_of(like, False, False)), like)) is kind


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
@pytest.mark.parametrize("padding", [1, (1, 2)])
def test_a_border_of_own_values_is_that_of_the_float_layer(mode: str, padding: int | tuple[int, int]) -> None:
    like = conv(padding=padding, padding_mode=mode, stride=(1, 2))
    learned = codes_of(like, channels=True, output=False)
    layer = quantised_layer(layer_state(learned), like)
    x = noise(2, 3, 6, 7)
    steps = learned.input.scale.reshape(-1, 1, 1)
    on_grid = ((x / steps).round().add(77).clamp(0, 255) - 77) * steps
    with torch.no_grad():
        weight = learned.codes * learned.scale.reshape(-1, 1, 1, 1)
        like.weight.copy_(weight * learned.input.scale.max() / learned.input.scale.reshape(1, -1, 1, 1))
    torch.testing.assert_close(layer(x), like(on_grid), rtol=1e-4, atol=1e-4)


def test_a_layer_takes_its_input_by_any_name() -> None:
    like = conv()
    layer, x = quantised_layer(layer_state(codes_of(like, channels=False, output=True)), like), noise(1, 3, 5, 5)
    assert torch.equal(layer(input=x), layer(x)) and torch.equal(layer(x, scale=1.0), layer(hidden=x))
