"""Convolutions that may pad one side more than the other, and their geometry apart from their weights."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Geometry", "PaddedConv2d", "Sides", "is_pointwise", "with_weights"]

Sides = tuple[int, int, int, int]
"""What is added on the left, the right, above and below, as `functional.pad` takes it."""


class PaddedConv2d(nn.Conv2d):
    """A convolution `[N, C, H, W]` that pads its `sides` with zeros first."""

    def __init__(self, conv: nn.Conv2d, sides: Sides) -> None:
        super().__init__(conv.in_channels, conv.out_channels, 1, groups=conv.groups, device="meta")
        self.kernel_size, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding
        self.dilation, self.weight, self.bias = conv.dilation, conv.weight, conv.bias
        self.sides = sides

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of the padded input."""
        return super().forward(functional.pad(input, self.sides))


@dataclass(frozen=True)
class Geometry:
    """How a convolution moves over its input; other weights can take the same way.

    `sides` are zeros ahead of the convolution's own padding; `border` is put around the input with values of its own
    by `mode` (circular, reflect or replicate), and there is no other padding then.
    """

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    sides: Sides | None
    mode: str = "zeros"
    border: Sides | None = None

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "Geometry":
        """The geometry of `conv`."""
        sides = conv.sides if isinstance(conv, PaddedConv2d) else None
        if conv.padding_mode == "zeros":
            return cls(conv.stride, conv.padding, conv.dilation, conv.groups, sides)
        left, right, above, below = conv._reversed_padding_repeated_twice
        border = (left, right, above, below)
        return cls(conv.stride, (0, 0), conv.dilation, conv.groups, sides, conv.padding_mode, border)

    def surround(self, x: Tensor) -> Tensor:
        """`x` with its border: copies of its own values, so it may be quantised before or after."""
        if self.border is None:
            return x
        return _wrapped(x, self.border) if self.mode == "circular" else functional.pad(x, self.border, self.mode)

    def slide(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`x` `[N, C, H, W]`, its border around it already, through `weight` `[O, C / groups, kh, kw]`."""
        padded = functional.pad(x, self.sides) if self.sides else x
        return functional.conv2d(padded, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`x` `[N, C, H, W]` through `weight` `[O, C / groups, kh, kw]`."""
        return self.slide(self.surround(x), weight, bias)


def is_pointwise(layer: nn.Module) -> bool:
    """Whether each pixel of a convolution's result is a linear of the same pixel of its input, all channels of it."""
    if not isinstance(layer, nn.Conv2d) or layer.kernel_size != (1, 1) or layer.groups != 1:
        return False
    has_border = isinstance(layer, PaddedConv2d) or layer.padding not in ((0, 0), "valid", "same")
    return layer.stride == (1, 1) and not has_border


def with_weights(layer: nn.Conv2d | nn.Linear, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the integer form of `layer` computes of `x`, with these weights and without quantisers."""
    if isinstance(layer, nn.Conv2d):
        return Geometry.of(layer).convolve(x, weight, bias)
    return functional.linear(x, weight, bias)


def _wrapped(x: Tensor, border: Sides) -> Tensor:
    """Circular padding as slices and a concat, which every engine has: ONNX's Pad wraps from opset 19 on."""
    left, right, above, below = border
    for axis, before, after in ((3, left, right), (2, above, below)):
        size = x.shape[axis]
        x = torch.cat([x.narrow(axis, size - before, before), x, x.narrow(axis, 0, after)], axis)
    return x
