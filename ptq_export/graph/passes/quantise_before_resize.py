"""A quantiser behind a nearest-neighbour Resize moves before it: repeating numbers and rounding them commute.

    x -> Resize -> Q -> DQ      becomes      x -> Q -> DQ -> Resize -> Q -> DQ

with one grid, so that the second pair changes nothing (|code| <= 127: its rounding in float16 stays within an eighth of
a step) and TensorRT may take the Resize between the two pairs in int8: it reads and writes bytes, and a quarter of the
numbers is quantised.
"""

import onnx_ir as ir

__all__ = ["QuantiseBeforeResize"]


class QuantiseBeforeResize(ir.passes.InPlacePass):
    """Quantise what a nearest Resize repeats, where everything that reads it is a quantiser of one grid.

    1. A Resize that interpolates stays: what it makes is on no grid.
    2. Where another node reads its result, or quantisers of several grids do, it stays.
    3. Where its input is on that grid already, there is nothing to do.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [(node, quantiser) for node in list(model.graph) if (quantiser := _only_grid(node)) is not None]
        for node, quantiser in found:
            _quantise_input(model.graph, node, quantiser)
        return ir.passes.PassResult(model, modified=bool(found))


def _only_grid(node: ir.Node) -> ir.Node | None:
    """The quantiser whose grid all readers of a nearest Resize share; None where there is none such to move."""
    if node.op_type != "Resize" or node.attributes.get_string("mode", "nearest") != "nearest":
        return None
    readers = [use.node for use in node.outputs[0].uses()]
    if not readers or any(reader.op_type != "QuantizeLinear" for reader in readers):
        return None
    first, *others = readers
    if any(_grid(other) != _grid(first) for other in others) or _grid(first) is None:
        return None
    source = None if node.inputs[0] is None else node.inputs[0].producer()
    on_grid = source is not None and source.op_type == "DequantizeLinear" and _grid(source) == _grid(first)
    return None if on_grid else first


def _grid(node: ir.Node) -> tuple[float, int] | None:
    """Scale and zero point of a Q or DQ with one step for the whole tensor; None for another."""
    values = [None if value is None or value.const_value is None else value.const_value for value in node.inputs[1:3]]
    if len(values) != 2 or any(value is None or value.size != 1 for value in values):
        return None
    scale, zero_point = (value.numpy().item() for value in values if value is not None)
    return scale, zero_point


def _quantise_input(graph: ir.Graph, resize: ir.Node, like: ir.Node) -> None:
    x, scale, zero_point = resize.inputs[0], *like.inputs[1:3]
    assert x is not None and scale is not None and zero_point is not None, "as _only_grid found them"
    quantise, dequantise = (
        ir.node(operator, [x, scale, zero_point], metadata_props=dict(resize.metadata_props))
        for operator in ("QuantizeLinear", "DequantizeLinear")
    )
    dequantise.replace_input_with(0, quantise.outputs[0])
    for node, kind in ((quantise, zero_point.type), (dequantise, x.type)):
        node.name = f"{resize.name}_{node.op_type}"
        value = node.outputs[0]
        value.name, value.shape, value.type = f"{node.name}_output", x.shape, kind
    resize.replace_input_with(0, dequantise.outputs[0])
    graph.insert_before(resize, [quantise, dequantise])
