"""Convolutions that may pad one side more than the other, and their geometry apart from their weights."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

__all__ = ["Geometry", "PaddedConv2d", "Sides"]

Sides = tuple[int, int, int, int]
"""Zeros on the left, the right, above and below, as `functional.pad` takes them."""


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
    """How a convolution moves over its input; other weights can take the same way."""

    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    sides: Sides | None

    @classmethod
    def of(cls, conv: nn.Conv2d) -> "Geometry":
        """The geometry of `conv`."""
        sides = conv.sides if isinstance(conv, PaddedConv2d) else None
        return cls(conv.stride, conv.padding, conv.dilation, conv.groups, sides)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """`x` `[N, C, H, W]` through `weight` `[O, C / groups, kh, kw]`."""
        padded = functional.pad(x, self.sides) if self.sides else x
        return functional.conv2d(padded, weight, bias, self.stride, self.padding, self.dilation, self.groups)
