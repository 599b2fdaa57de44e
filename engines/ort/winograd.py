"""The 3 x 3 convolutions that go to this package's own operator, WinogradConv (`docs/operators.md`)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import onnx_ir as ir

from ptq_export.engines.ort.nhwc_values import CONTRIB, OURS
from ptq_export.graph.patterns import constant, tensor

__all__ = ["Choice", "Convolution", "Winograd", "convolution_of"]


@dataclass(frozen=True)
class Convolution:
    """A 3 x 3 convolution with stride 1: of an image `[height, width, inputs]` to one of so many `outputs`.

    `pads`: pixels of zeros above, left, below, right.
    """

    height: int
    width: int
    inputs: int
    outputs: int
    pads: tuple[int, int, int, int]


Choice: TypeAlias = Callable[[Convolution], bool]
"""Whether a convolution goes to the operator."""


class Winograd(ir.passes.InPlacePass):
    """Give the channels-last QLinearConv nodes of `choice` to WinogradConv, which computes the same codes."""

    def __init__(self, choice: Choice) -> None:
        super().__init__()
        self.choice = choice

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        chosen = [node for node in model.graph if (found := convolution_of(node)) is not None and self.choice(found)]
        for node in chosen:
            pads = node.attributes.get_ints("pads", [0] * 4)
            node.op_type, node.domain = "WinogradConv", OURS
            node.attributes.clear()
            node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        return ir.passes.PassResult(model, modified=bool(chosen))


def convolution_of(node: ir.Node) -> Convolution | None:
    """The convolution of a channels-last QLinearConv, if the operator could compute it."""
    if node.op_type != "QLinearConv" or node.domain != CONTRIB or node.attributes.get_int("group", 1) != 1:
        return None
    strides, dilations = (node.attributes.get_ints(name, [1, 1]) for name in ("strides", "dilations"))
    weight, zero_points, result = tensor(node.inputs[3]), constant(node.inputs[5]), node.outputs[0].shape
    if {*strides, *dilations} != {1} or weight is None or weight.dtype != ir.DataType.INT8 or result is None:
        return None
    outputs, inputs, *kernel = weight.shape
    top, left, bottom, right = node.attributes.get_ints("pads", [0] * 4)
    if kernel != [3, 3] or not {top, left, bottom, right} <= {0, 1} or zero_points is None or zero_points.any():
        return None
    known = [size for size in (result[1], result[2], inputs, outputs) if isinstance(size, int)]
    if len(known) < 4:
        return None
    height, width = known[0] + 2 - top - bottom, known[1] + 2 - left - right
    return Convolution(height, width, known[2], known[3], (top, left, bottom, right))
