"""Some layers of a quantised graph back in float, without another export: what a choice of layers costs in time.

An export takes as long as many timed rounds. The product is always a fresh export; this graph computes the same.
"""

from collections.abc import Mapping

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import Tensor, nn

from ptq_export.graph.patterns import factor, transposed_rows, unflattened
from ptq_export.graph.scopes import module_path

__all__ = ["FloatLayers"]


class FloatLayers(ir.passes.InPlacePass):
    """Take the grids of some layers away and give them their float weights.

    1. The input is what was quantised, before the gain per channel.
    2. The output is the layer's own: an output grid goes. One that other nodes read, too, has none; a grid that is not
       the layer's own stays (`DropGrids`).
    3. A quantiser that several layers read stays for the others.
    4. A convolution that is a product of rows of pixels is one of images again.
    """

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        """`layers` are the float convolutions and linears by module path, which is the name of their node."""
        self.layers = layers

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = [node for node in model.graph if node.name in self.layers and _quantiser(node) is not None]
        for node in found:
            layer = self.layers[str(node.name)]
            if isinstance(layer, nn.Conv2d) and node.op_type == "Gemm":
                node = _of_images(model.graph, node)
            else:
                _bypass_grids(node)
            _set_weights(model.graph, node, layer)
        if found:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(found))


def _quantiser(layer: ir.Node) -> ir.Node | None:
    """The QuantizeLinear on a layer's input."""
    dequantise = _producer(layer, "DequantizeLinear")
    return None if dequantise is None else _producer(dequantise, "QuantizeLinear")


def _producer(node: ir.Node, op_type: str) -> ir.Node | None:
    """The node that made the first input, if it is of that type."""
    value = node.inputs[0]
    producer = None if value is None else value.producer()
    return producer if producer is not None and producer.op_type == op_type else None


def _bypass_grids(layer: ir.Node) -> None:
    quantiser = _quantiser(layer)
    assert quantiser is not None
    gain = _producer(quantiser, "Mul")
    has_gain = gain is not None and gain.inputs[1] is not None and gain.inputs[1].is_initializer()
    layer.replace_input_with(0, gain.inputs[0] if gain is not None and has_gain else quantiser.inputs[0])
    uses = list(layer.outputs[0].uses())
    if len(uses) == 1 and uses[0].node.op_type == "QuantizeLinear" and module_path(uses[0].node) == layer.name:
        (dequantised,) = (use.node for use in uses[0].node.outputs[0].uses())
        dequantised.outputs[0].replace_all_uses_with(layer.outputs[0], replace_graph_outputs=True)


def _of_images(graph: ir.Graph, product: ir.Node) -> ir.Node:
    """A convolution in place of a product of rows of pixels, of what was quantised, still without its own weights."""
    quantiser = _quantiser(product)
    assert quantiser is not None and quantiser.inputs[0] is not None
    rows, _ = transposed_rows(quantiser.inputs[0])
    image, _ = factor(unflattened(rows))
    conv = ir.node("Conv", [image, *product.inputs[1:]], {"kernel_shape": [1, 1]}, name=product.name)
    conv.metadata_props.update(product.metadata_props)
    result = product.outputs[0]
    for op_type in ("Reshape", "Transpose", "Reshape"):
        (reader,) = (use.node for use in result.uses())
        assert reader.op_type == op_type
        result = reader.outputs[0]
    conv.outputs[0].name, conv.outputs[0].shape, conv.outputs[0].type = result.name, result.shape, result.type
    graph.insert_before(product, conv)
    result.replace_all_uses_with(conv.outputs[0], replace_graph_outputs=True)
    return conv


def _set_weights(graph: ir.Graph, node: ir.Node, layer: nn.Module) -> None:
    weight, bias = layer.get_parameter("weight"), getattr(layer, "bias", None)
    by_column = node.op_type == "Gemm" and not node.attributes.get_int("transB", 0)
    node.replace_input_with(1, _initialiser(graph, f"{node.name}.weight", weight.T if by_column else weight))
    node.resize_inputs(2)
    if bias is not None:
        node.resize_inputs(3)
        node.replace_input_with(2, _initialiser(graph, f"{node.name}.bias", bias))


def _initialiser(graph: ir.Graph, name: str, values: Tensor) -> ir.Value:
    value = ir.val(name, const_value=ir.tensor(values.detach().contiguous().numpy(), name=name))
    graph.initializers.pop(name, None)
    graph.register_initializer(value)
    return value
