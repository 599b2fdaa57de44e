"""Int8 weights as float values on their grid, quantised in the graph: TensorRT 8 takes weights in no other form.

Its parser refuses int8 initialisers ("only activation types allowed as input to this layer",
https://github.com/microsoft/onnxruntime/issues/14229). Rounding to nearest would undo learned rounding if the weights
were the original ones; those on the grid are reproduced exactly, which is proved here for every weight.
"""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ptq_export.errors import GateFailed
from ptq_export.nn.code_type import INT8

__all__ = ["RequantiseWeights", "prove_codes"]

_LEAST, _MOST = INT8.low, INT8.high


class RequantiseWeights(ir.passes.InPlacePass):
    """Replace each int8 initialiser behind a DequantizeLinear by `codes * scale` and a QuantizeLinear of that scale.

    1. Zero points that are not 0, and scales computed at run time, are left alone: TensorRT has neither.
    2. Codes that other nodes read stay for them.

    Raises:
        GateFailed: the codes that an engine would compute are not the stored ones.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            codes = _codes(node)
            if codes is not None:
                _requantise(model.graph, node, codes)
                modified = True
        return ir.passes.PassResult(model, modified=modified)


def _codes(node: ir.Node) -> ir.Value | None:
    """The int8 initialiser that a DequantizeLinear reads around zero with a constant scale."""
    if node.op_type != "DequantizeLinear" or len(node.inputs) != 3:
        return None
    codes, scale, zero_point = node.inputs
    if codes is None or codes.const_value is None or codes.const_value.dtype != ir.DataType.INT8:
        return None
    if scale is None or scale.const_value is None or zero_point is None or zero_point.const_value is None:
        return None
    return None if zero_point.const_value.numpy().any() else codes


def _requantise(graph: ir.Graph, node: ir.Node, codes: ir.Value) -> None:
    _, scale, zero_point = node.inputs
    assert codes.const_value is not None and scale is not None and scale.const_value is not None
    axis = node.attributes.get_int("axis", 1)
    integers, steps = codes.const_value.numpy(), _along(scale.const_value.numpy(), axis, codes.const_value.shape.rank())
    values = (integers * steps).astype(np.float32)
    prove_codes(values, steps, integers, str(codes.name))
    weight = ir.val(f"{codes.name}_on_grid", const_value=ir.tensor(values, name=f"{codes.name}_on_grid"))
    graph.register_initializer(weight)
    quantise = ir.node(
        "QuantizeLinear",
        [weight, scale, zero_point],
        {"axis": axis},
        name=f"{node.name}_quantize",
        metadata_props=dict(node.metadata_props),
    )
    graph.insert_before(node, quantise)
    node.replace_input_with(0, quantise.outputs[0])
    quantise.outputs[0].dtype, quantise.outputs[0].shape = ir.DataType.INT8, ir.Shape(integers.shape)
    if not codes.uses():
        del graph.initializers[str(codes.name)]


def _along(scale: NDArray[np.float32], axis: int, rank: int) -> NDArray[np.float32]:
    """Scales `[K]` shaped to be multiplied with a tensor of `rank`; one for the whole tensor stays a scalar."""
    return scale if scale.size == 1 else scale.reshape([-1 if index == axis % rank else 1 for index in range(rank)])


def prove_codes(values: NDArray[np.float32], steps: NDArray[np.float32], codes: NDArray[np.int8], name: str) -> None:
    """Engines divide by the step or multiply with its reciprocal: both must give the codes of the weight `name`.

    Raises:
        GateFailed: one gives others.
    """
    for quotient in (values / steps, values * (np.float32(1) / steps)):
        found = np.clip(np.rint(quotient), _LEAST, _MOST)
        if not np.array_equal(found, codes):
            raise GateFailed(f"{name}: {np.count_nonzero(found != codes)} codes change when they are quantised again")
