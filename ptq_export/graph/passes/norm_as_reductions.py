"""An instance norm as the means that it is made of: TensorRT 8.5 makes a plugin of the operator.

    centred = x - mean(x)
    y = centred / sqrt(mean(centred^2) + eps) * scale + bias

A plan with that plugin is loaded only where TensorRT's plugins are registered first, the plugin copies two small
buffers per sample and norm, and it cannot be fused with its neighbours. Not the mean of x^2 less that of x squared:
that loses the digits that float32 has.
"""

import numpy as np
import onnx_ir as ir

from ptq_export.errors import GateFailed

__all__ = ["IN_FLOAT32", "norm_as_reductions"]

IN_FLOAT32 = "_in_float32"
"""In the names of the nodes whose sums float16 cannot hold; a TensorRT without strong typing is told by it."""
EPSILON = 1e-5  # ONNX's default


def norm_as_reductions(graph: ir.Graph, node: ir.Node) -> None:
    """Replace an InstanceNormalization of `[N, C, ...]` in a graph of opset 17 or older.

    Raises:
        GateFailed: its scale or bias is computed, or the rank of its input is not known.
    """
    x, scale, bias = node.inputs
    assert x is not None and scale is not None and bias is not None, "the operator has three inputs"
    if x.shape is None or scale.const_value is None or bias.const_value is None:
        raise GateFailed(f"{node.name}: an instance norm of unknown rank, or with a computed scale or bias")
    rank, channels = len(x.shape), scale.const_value.size
    axes = list(range(2, rank))

    def make(operator: str, *inputs: ir.Value) -> ir.Value:
        attributes: dict[str, int | list[int]] = {"axes": axes, "keepdims": 1} if operator == "ReduceMean" else {}
        made = ir.node(operator, list(inputs), attributes, metadata_props=dict(node.metadata_props))
        made.name = f"{node.name}_{len(new)}_{operator}{IN_FLOAT32}"
        made.outputs[0].name, made.outputs[0].type = f"{made.name}_value", x.type
        new.append(made)
        return made.outputs[0]

    def constant(name: str, array: np.ndarray) -> ir.Value:
        value = ir.val(f"{node.name}_{name}", const_value=ir.tensor(array.astype(np.float32)))
        graph.register_initializer(value)
        return value

    new: list[ir.Node] = []
    centred = make("Sub", x, make("ReduceMean", x))
    variance = make("ReduceMean", make("Mul", centred, centred))
    epsilon = constant("epsilon", np.array(node.attributes.get_float("epsilon", EPSILON)))
    y = make("Div", centred, make("Sqrt", make("Add", variance, epsilon)))
    per_channel = (1, channels, *[1] * len(axes))
    if not (scale.const_value.numpy() == 1).all():
        y = make("Mul", y, constant("scale", scale.const_value.numpy().reshape(per_channel)))
    if bias.const_value.numpy().any():
        y = make("Add", y, constant("bias", bias.const_value.numpy().reshape(per_channel)))
    old = node.outputs[0]
    y.shape, y.type = old.shape, old.type
    graph.insert_before(node, new)
    old.replace_all_uses_with(y, replace_graph_outputs=True)
    graph.remove(node, safe=True)
