"""Grids that are no layer's input: what lies between convolutions decides how fast TensorRT runs them in int8.

A `GridPoint` stands in the float network where such a grid may be, and changes nothing; calibration observes what goes
through it and puts a `QuantisedGrid` in its place. Each belongs to a layer, beside or behind which it stands, and is
there only where that layer is int8: its kernel is what the grid is for.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptq_export.nn.ops import dequantize_linear, quantize_linear

__all__ = ["CONV1_OUTPUT", "RESIDUAL", "GridPoint", "Place", "QuantisedGrid", "grid_points", "owner_of"]


@dataclass(frozen=True)
class Place:
    """Where in a residual block a grid stands, by the placement of the scheme that asks for it.

    Attributes:
        layer: The layer of the block that the grid belongs to.
        beside: It is on the other operand of the Add that reads the layer's result; else on that result itself.
    """

    placement: str
    layer: str
    beside: bool


RESIDUAL = Place("residual", "conv2", beside=True)
CONV1_OUTPUT = Place("conv1-output", "conv1", beside=False)


class GridPoint(nn.Module):
    """The identity, where a grid may be."""

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        """`x` itself."""
        return x


class QuantisedGrid(GridPoint):
    """A symmetric int8 grid for the whole tensor, as Q and DQ in the exported graph."""

    scale: Tensor
    zero_point: Tensor

    def __init__(self, state: Mapping[str, Tensor], like: GridPoint) -> None:
        """`state` holds the `scale`, a scalar."""
        super().__init__(like.place)
        self.register_buffer("scale", state["scale"].detach().clone())
        self.register_buffer("zero_point", torch.zeros_like(self.scale, dtype=torch.int8), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`x` on the grid."""
        codes = quantize_linear(x, self.scale, self.zero_point, 0)
        values: Tensor = dequantize_linear(codes, self.scale, self.zero_point, 0)
        return values


def grid_points(module: nn.Module) -> dict[str, GridPoint]:
    """The places for grids by module path, quantised or not."""
    return {name: child for name, child in module.named_modules() if isinstance(child, GridPoint)}


def owner_of(name: str, point: GridPoint) -> str:
    """The module path of the layer that the grid called `name` belongs to."""
    return f"{name.rpartition('.')[0]}.{point.place.layer}".removeprefix(".")
