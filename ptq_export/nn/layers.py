"""Convolution and linear on integer codes, as the engine computes them; the exported graph is these modules' trace.

With input steps s (a scalar, or one per channel), u = max(s), weight codes c of step v, and an output grid
(sigma, zeta):

    q   = clamp(round(x * (u / s) / u) + z)
    y_o = (q - z) * u  conv  c_o * v_o / sigma_o  +  b_o / sigma_o + zeta_o
    out = (clamp(round(y)) - zeta) * sigma

A linear's input may have a step per token: x is divided by the token's largest magnitude m before its quantiser, and
the product multiplied by m; b is added behind that, as floats.

Per-channel input steps are a gain u / s on x, undone in the codes (c stands for w * s / u); per-channel output grids
live in v and b: the engine sees scalar grids on both sides. Without an output grid y is the result (sigma 1, zeta 0).
b is on the accumulator's grid (v u, int32), or a float where the engine adds it as one.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ptq_export.nn.calls import the_input
from ptq_export.nn.convolution import Geometry, with_weights
from ptq_export.nn.ops import dequantize_linear, quantize_linear

__all__ = [
    "ExactWeightsLayer",
    "Grid",
    "LayerCodes",
    "PointwiseConv2d",
    "QuantisedConv2d",
    "QuantisedLayer",
    "QuantisedLinear",
    "TokenLinear",
    "UnquantisedLayer",
    "layer_state",
    "quantised_layer",
    "token_magnitude",
]


SMALLEST_TOKEN = 2.0**-14  # float16 has no smaller number that every GPU keeps


@dataclass(frozen=True)
class Grid:
    """A uint8 or int8 grid, which the zero point's type says: x = (q - zero_point) * scale.

    Both are scalars or `[C]`; an input's zero point is a scalar.
    """

    scale: Tensor
    zero_point: Tensor


@dataclass(frozen=True)
class LayerCodes:
    """What was learned about one layer: codes `[O, I, ...]` int8 of w * s / u, their scale v `[O]`, and bias `[O]`.

    A convolution whose codes are `[O, I]` is computed on rows of pixels.
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor
    input: Grid
    output: Grid | None
    integer_bias: bool = True
    by_token: bool = False


class QuantisedLayer(nn.Module):
    """The integer form of one layer; every tensor that the engine needs is a buffer under its exported name."""

    channel_axis = 1
    weight_codes: Tensor
    weight_scale: Tensor
    bias: Tensor
    bias_codes: Tensor
    bias_scale: Tensor
    input_scale: Tensor
    input_zero_point: Tensor
    input_gain: Tensor
    output_scale: Tensor
    output_zero_point: Tensor

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        # The exporter writes buffers in this order: a restored layer must give the same file as a fresh one.
        for name, value in sorted(state.items()):
            self.register_buffer(name, value.detach().clone())
        self.has_input_gain = "input_gain" in state
        self.has_output_grid = "output_scale" in state
        self.has_integer_bias = "bias_codes" in state
        self.register_buffer("zero_i8", torch.zeros_like(self.weight_scale, dtype=torch.int8), persistent=False)
        self.register_buffer("zero_i32", torch.zeros_like(self.weight_scale, dtype=torch.int32), persistent=False)
        self.register_buffer("zero_u8", self.weight_scale.new_zeros((), dtype=torch.uint8), persistent=False)
        self.register_buffer("one", self.weight_scale.new_ones(()), persistent=False)

    def on_grid(self, x: Tensor) -> Tensor:
        """(q - z) * u: the input on its scalar grid, as the integer kernel reads it."""
        return self.rounded(self.scaled(x))

    def scaled(self, x: Tensor) -> Tensor:
        """The input times its gains, which make its steps one."""
        return x * self.input_gain if self.has_input_gain else x

    def rounded(self, x: Tensor) -> Tensor:
        """What was scaled, on the grid."""
        codes = quantize_linear(x, self.input_scale, self.input_zero_point, 0)
        values: Tensor = dequantize_linear(codes, self.input_scale, self.input_zero_point, 0)
        return values

    def fake_input(self, x: Tensor) -> Tensor:
        """The input on its grid, in its own units: what a float layer would read."""
        return self.on_grid(x) / self.input_gain if self.has_input_gain else self.on_grid(x)

    def fake_output(self, y: Tensor) -> Tensor:
        """A float layer's result on this layer's output grid."""
        if not self.has_output_grid:
            return y
        codes = quantize_linear(y, self.output_scale, self.output_zero_point, self.channel_axis)
        values: Tensor = dequantize_linear(codes, self.output_scale, self.output_zero_point, self.channel_axis)
        return values

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The engine's result for a float input, within float rounding."""
        return self.compute(the_input(args, kwargs))

    def compute(self, x: Tensor) -> Tensor:
        """The result of `x`, whose quantiser comes first."""
        y = self.apply_weights(self.on_grid(x), self.weights(), self.bias_values())
        if not self.has_output_grid:
            return y
        codes = quantize_linear(y, self.one, self.zero_u8, self.channel_axis)
        values: Tensor = dequantize_linear(codes, self.output_scale, self.output_zero_point, self.channel_axis)
        return values

    def weights(self) -> Tensor:
        """c v, in the shape of the codes."""
        values: Tensor = dequantize_linear(self.weight_codes, self.weight_scale, self.zero_i8, 0)
        return values

    def bias_values(self) -> Tensor:
        """b `[O]`."""
        if not self.has_integer_bias:
            return self.bias
        values: Tensor = dequantize_linear(self.bias_codes, self.bias_scale, self.zero_i32, 0)
        return values

    def apply_weights(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The float operation itself."""
        raise NotImplementedError


class QuantisedConv2d(QuantisedLayer):
    """A 2-d convolution `[N, C, H, W]`."""

    def __init__(self, state: Mapping[str, Tensor], like: nn.Conv2d) -> None:
        super().__init__(state)
        self.geometry = Geometry.of(like)

    def compute(self, x: Tensor) -> Tensor:
        return super().compute(self.geometry.surround(x))

    def apply_weights(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return self.geometry.slide(x, weight, bias)


class PointwiseConv2d(QuantisedLayer):
    """A 1 x 1 convolution `[N, C, H, W]`, computed on rows of pixels `[N H W, C]` so that the engine sees one Gemm."""

    def compute(self, x: Tensor) -> Tensor:
        rows = self.scaled(x).flatten(2).transpose(1, 2)
        y = self.apply_weights(self.rounded(rows.flatten(0, 1)), self.weights(), self.bias_values())
        pixels: Tensor = y.unflatten(0, rows.shape[:2]).transpose(1, 2)  # type: ignore[no-untyped-call]
        return pixels.unflatten(2, x.shape[2:])  # type: ignore[no-any-return, no-untyped-call]

    def apply_weights(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.linear(x, weight, bias)


class QuantisedLinear(QuantisedLayer):
    """A linear layer on `[..., C]`, computed on rows `[rows, C]` so that the engine sees one Gemm."""

    def compute(self, x: Tensor) -> Tensor:
        return super().compute(x.flatten(0, -2)).unflatten(0, x.shape[:-1])  # type: ignore[no-any-return, no-untyped-call]

    def apply_weights(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return functional.linear(x, weight, bias)


class TokenLinear(QuantisedLinear):
    """A linear layer on `[..., C]` whose tokens, rows of C values, each have a step of their own."""

    token_bias: Tensor

    def compute(self, x: Tensor) -> Tensor:
        largest = token_magnitude(x)
        return super().compute(x / largest) * largest + self.token_bias

    def fake_input(self, x: Tensor) -> Tensor:
        largest = token_magnitude(x)
        return super().fake_input(x / largest) * largest


def token_magnitude(x: Tensor) -> Tensor:
    """The largest magnitude of each token of `[..., C]`: `[..., 1]`, above zero in float16 too."""
    return x.abs().amax(-1, keepdim=True).clamp_min(SMALLEST_TOKEN)


class ExactWeightsLayer(nn.Module):
    """A float layer between the activation grids of a quantised one: what exact weights would give."""

    def __init__(self, quantised: QuantisedLayer, layer: nn.Module) -> None:
        super().__init__()
        self.quantised, self.layer = quantised, layer

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The float layer's result on quantised activations."""
        return self.quantised.fake_output(self.layer(self.quantised.fake_input(the_input(args, kwargs))))


class UnquantisedLayer(nn.Module):
    """The integer form of a float layer with its quantisers off: equal to the layer, or the layer has no such form."""

    def __init__(self, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.form = (layer,)  # in a tuple: like the integer form, this one has no `weight` for others to read

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The operation of the integer form on the float weights."""
        (layer,) = self.form
        return with_weights(layer, the_input(args, kwargs), layer.weight, layer.bias)


def layer_state(layer: LayerCodes) -> dict[str, Tensor]:
    """The buffers of a layer: both grids folded into weight scales and bias, integer biases on the accumulator's."""
    unit = layer.input.scale.max()
    sigma = layer.output.scale if layer.output else unit.new_ones(())
    zeta = layer.output.zero_point if layer.output else unit.new_zeros(())
    weight_scale = layer.scale / sigma
    bias_scale = weight_scale * unit
    bias = layer.bias.double() / sigma.double() + zeta.double()
    if layer.by_token:
        bias = torch.zeros_like(bias)
    state = {
        "weight_codes": layer.codes,
        "weight_scale": weight_scale,
        "input_scale": unit,
        "input_zero_point": layer.input.zero_point,
    }
    if layer.integer_bias:
        state |= {"bias_codes": (bias / bias_scale.double()).round().to(torch.int32), "bias_scale": bias_scale}
    else:
        state["bias"] = bias.float()
    if layer.input.scale.ndim:
        state["input_gain"] = (unit / layer.input.scale).reshape(-1, 1, 1)
    if layer.by_token:
        state["token_bias"] = layer.bias
    if layer.output:
        state |= {"output_scale": layer.output.scale, "output_zero_point": layer.output.zero_point}
    return {name: value.detach().clone() for name, value in state.items()}


def quantised_layer(state: Mapping[str, Tensor], like: nn.Module) -> QuantisedLayer:
    """The integer form of the float layer `like`."""
    if isinstance(like, nn.Conv2d):
        return PointwiseConv2d(state) if state["weight_codes"].ndim == 2 else QuantisedConv2d(state, like)
    return TokenLinear(state) if "token_bias" in state else QuantisedLinear(state)
