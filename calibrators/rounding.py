"""Learned rounding of one layer: AdaRound (arXiv:2004.10568) with a learned step for its input (LSQ, arXiv:1902.08153).

h(alpha) = clamp(sigmoid(alpha) * (zeta - gamma) + gamma, 0, 1) chooses between floor (0) and ceil (1) of w / v.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ptq_export.calibrators.grids import bias_step, fold_input_scale, weight_scale
from ptq_export.nn.calls import the_input
from ptq_export.nn.convolution import is_pointwise, with_weights
from ptq_export.nn.grid_point import GridPoint, QuantisedGrid
from ptq_export.nn.layers import Grid, LayerCodes, QuantisedLayer, layer_state, quantised_layer, token_magnitude
from ptq_export.nn.ops import fake_quantize, round_to
from ptq_export.nn.scheme import Scheme

__all__ = ["SoftGrid", "SoftLayer", "by_token", "on_rows"]

GAMMA, ZETA = -0.1, 1.1


class SoftLayer(nn.Module):
    """A float layer with fake-quantised input, softly rounded weights and its output grid; `harden` gives the codes.

    While `learn` is False every weight is rounded to its side: to nearest, until a learned rounding is settled.
    """

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, grid: Grid, output: Grid | None, scheme: Scheme, learn: bool
    ) -> None:
        super().__init__()
        self.layer, self.output, self.scheme, self.learn = layer, output, scheme, learn
        self.zero_point = grid.zero_point
        weight = layer.weight.detach()
        folded = fold_input_scale(weight, grid)
        bias = layer.bias.detach() if layer.bias is not None else weight.new_zeros(weight.shape[0])
        step = weight_scale(folded, scheme.pair_limit, scheme.even_pairs or _reads_even_pairs(layer), scheme.weights)
        self.by_token = by_token(layer, scheme)
        if scheme.integer_bias and not self.by_token:
            step = step.maximum(bias_step(bias, grid.scale.max(), output))
        self.step = round_to(step, scheme.float_dtype)
        self.ratio = folded / _rows(self.step, folded)
        self.relative = (grid.scale / grid.scale.max()).expand(weight.shape[1]).reshape(1, -1, *[1] * (weight.ndim - 2))
        self.bias = nn.Parameter(bias.clone())
        self.log_input_scale = nn.Parameter(weight.new_zeros(()))
        self.base_scale = grid.scale
        fraction = self.ratio - self.ratio.floor()
        self.side = (fraction >= 0.5).float()
        self.alpha = nn.Parameter(-torch.log((ZETA - GAMMA) / (fraction - GAMMA) - 1))

    def rounding(self) -> Tensor:
        """h(alpha) in [0, 1], shaped like the weight."""
        if not self.learn:
            return self.side
        return (torch.sigmoid(self.alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def settle(self) -> None:
        """Round hard from now on, each weight to the side that it leans to."""
        self.side, self.learn = (self.rounding() >= 0.5).float().detach(), False

    def input_scale(self) -> Tensor:
        """The learned step(s) of the input: the calibrated ones times one learned factor, as the float type holds them.

        That of tokens is what it is: their largest values are 1.
        """
        if self.by_token:
            return round_to(self.base_scale, self.scheme.float_dtype)
        return round_to(self.base_scale * self.log_input_scale.exp(), self.scheme.float_dtype)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's result with soft rounding, differentiable in alpha, the bias and the input step."""
        x = the_input(args, kwargs)
        largest = token_magnitude(x) if self.by_token else None
        x = x if largest is None else x / largest
        x = fake_quantize(x, _along(self.input_scale(), x), self.zero_point)
        x = x if largest is None else x * largest  # a factor per row: before the product or behind it
        codes = self.ratio.floor() + self.rounding()
        weight = codes * _rows(self.step, codes) / self.relative
        y = with_weights(self.layer, x, weight, self.bias)
        if self.output is None:
            return y
        return fake_quantize(y, _along(self.output.scale, y), _along(self.output.zero_point, y))

    @torch.no_grad()
    def harden(self) -> QuantisedLayer:
        """The integer layer: every weight takes the side that it leans to."""
        reach, dtype = self.scheme.weights.reach, self.scheme.weights.dtype
        codes = (self.ratio.floor() + (self.rounding() >= 0.5)).clamp(-reach, reach).to(dtype)
        if on_rows(self.layer, self.scheme):
            codes = codes.flatten(1)
        grid = Grid(self.input_scale(), self.zero_point)
        bias = self.bias.half().float() if self.scheme.float_dtype == "float16" else self.bias
        learned = LayerCodes(codes, self.step, bias, grid, self.output, self.scheme.integer_bias, self.by_token)
        return quantised_layer(layer_state(learned), self.layer)


class SoftGrid(GridPoint):
    """The grid of a `GridPoint` while the layers around it learn: their gradients go through it."""

    def __init__(self, point: GridPoint, grid: Grid, scheme: Scheme) -> None:
        super().__init__(point.place)
        self.scale, self.zero_point = round_to(grid.scale, scheme.float_dtype), grid.zero_point

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid."""
        return fake_quantize(x, self.scale, self.zero_point)

    def harden(self) -> QuantisedGrid:
        """The same grid as the engine has it."""
        return QuantisedGrid({"scale": self.scale}, self)


def by_token(layer: nn.Module, scheme: Scheme) -> bool:
    """Whether the layer's input has a step per token."""
    return isinstance(layer, nn.Linear) and scheme.linear_input == "token"


def on_rows(layer: nn.Module, scheme: Scheme) -> bool:
    """Whether the layer is a convolution that is computed on rows of pixels, without a grid on its result."""
    return scheme.pointwise_rows and is_pointwise(layer)


def _reads_even_pairs(layer: nn.Conv2d | nn.Linear) -> bool:
    """Whether every engine reads the layer's weights two by two from an even place on; see `Scheme.even_pairs`."""
    return isinstance(layer, nn.Conv2d) and layer.groups == 1 and layer.in_channels % 2 == 0


def _rows(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.ndim - 1))


def _along(values: Tensor, x: Tensor) -> Tensor:
    """A scalar, or `[C]` shaped for an activation `[N, C, H, W]` or `[..., C]`."""
    return values.reshape(-1, 1, 1) if values.ndim and x.ndim == 4 else values
