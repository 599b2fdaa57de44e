"""Where a graph has the grids that are no layer's input: found from the layer that each belongs to, and taken away."""

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ptq_export.graph.passes.name_layers import LAYER_OPS
from ptq_export.nn.grid_point import GridPoint, Place, owner_of

__all__ = ["DropGrids", "find_pair"]


def find_pair(layer: ir.Node, place: Place) -> tuple[ir.Node, ir.Node] | None:
    """The Q and DQ of the grid that stands at `place` of a layer's node; None where there is none."""
    read = [use.node for use in layer.outputs[0].uses()]
    if len(read) != 1:
        return None
    (reader,) = read
    if not place.beside:
        dequantisers = [use.node for use in reader.outputs[0].uses()] if reader.op_type == "QuantizeLinear" else []
        return (reader, dequantisers[0]) if len(dequantisers) == 1 else None
    others = [value for value in reader.inputs if value is not layer.outputs[0]] if reader.op_type == "Add" else []
    dequantise = _maker(others[0], "DequantizeLinear") if len(others) == 1 else None
    quantise = None if dequantise is None else _maker(dequantise.inputs[0], "QuantizeLinear")
    return None if quantise is None or dequantise is None else (quantise, dequantise)


class DropGrids(ir.passes.InPlacePass):
    """Take grids out of a quantised graph: what read them reads the numbers that were quantised.

    1. A layer whose input is on the same grid, and shares the pair, keeps it.
    2. A grid that is not there is nothing to do for.
    """

    def __init__(self, points: Mapping[str, GridPoint]) -> None:
        """`points` are the grids by module path."""
        self.points = points

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = {node.name: node for node in model.graph if node.op_type in LAYER_OPS}
        modified = False
        for name, point in self.points.items():
            layer = nodes.get(owner_of(name, point))
            pair = None if layer is None else find_pair(layer, point.place)
            if pair is None:
                continue
            quantise, dequantise = pair
            for use in [use for use in dequantise.outputs[0].uses() if use.node.op_type not in LAYER_OPS]:
                use.node.replace_input_with(use.idx, quantise.inputs[0])
            modified = True
        if modified:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=modified)


def _maker(value: ir.Value | None, op_type: str) -> ir.Node | None:
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type else None
