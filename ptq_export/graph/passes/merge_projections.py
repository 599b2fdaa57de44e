"""Linear layers of one common input as one layer: x W_1^T, ..., x W_k^T are the columns of x [W_1; ...; W_k]^T."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from ptq_export.graph.splice import Array, record, splice, split_channels

__all__ = ["MERGED", "MergeProjections"]

MERGED = "_merged"
"""Behind the first layer's name, it names the merged one."""


class MergeProjections(ir.passes.InPlacePass):
    """Merge the Gemms `[N, K] -> [N, C_i]` that read the same value into one Gemm `[N, sum C_i]` and one Split.

    1. A Gemm takes part if its weight and bias are constants and its result is `x W + b` (alpha = beta = 1).
    2. Two or more that read the same x are merged, in the order of the graph.
    3. Where every result goes into an Unsqueeze of the same axes behind the channels (`[N, C_i, 1, 1]`) and nowhere
       else, one Unsqueeze before the Split takes their place.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        groups: dict[ir.Value, list[ir.Node]] = {}
        for node in model.graph:
            source = node.inputs[0] if node.inputs else None
            if source is not None and _is_projection(node):
                groups.setdefault(source, []).append(node)
        merged = [gemms for gemms in groups.values() if len(gemms) > 1]
        for gemms in merged:
            _merge(model, gemms)
        return ir.passes.PassResult(model, modified=bool(merged))


def _is_projection(node: ir.Node) -> bool:
    attributes = node.attributes
    if node.op_type != "Gemm" or node.domain != "" or attributes.get_int("transA", 0) != 0:
        return False
    if attributes.get_float("alpha", 1.0) != 1.0 or attributes.get_float("beta", 1.0) != 1.0:
        return False
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    constant = all(value is None or _is_constant(value) for value in (weight, bias))
    return constant and (bias is None or _array(bias).ndim < 2)


def _is_constant(value: ir.Value) -> bool:
    return ir.convenience.get_const_tensor(value) is not None and not value.is_graph_input()


def _merge(model: ir.Model, gemms: Sequence[ir.Node]) -> None:
    weights, biases = zip(*map(_weight_and_bias, gemms), strict=True)
    name = f"{gemms[0].name}{MERGED}"
    tape = ir.tape.Tape()
    weight = tape.initializer(ir.tensor(np.concatenate(weights), name=f"{name}_weight"))
    bias = tape.initializer(ir.tensor(np.concatenate(biases), name=f"{name}_bias"))
    value = record(tape, "Gemm", [gemms[0].inputs[0], weight, bias], name, transB=1)
    old = [gemm.outputs[0] for gemm in gemms]
    axes = _common_axes(old)
    if axes is not None:
        axes_value = tape.initializer(ir.tensor(axes, name=f"{name}_axes"))
        value = record(tape, "Unsqueeze", [value, axes_value], f"{name}_unsqueeze")
        old = [output.consumers()[0].outputs[0] for output in old]
    new = split_channels(tape, value, [len(weight) for weight in weights], f"{name}_split")
    splice(model, gemms[0], tape, dict(zip(old, new, strict=True)))


def _weight_and_bias(gemm: ir.Node) -> tuple[Array, Array]:
    """Weight `[C, K]` and bias `[C]` of a Gemm."""
    weight = _array(gemm.inputs[1])
    if gemm.attributes.get_int("transB", 0) == 0:
        weight = weight.T
    bias = gemm.inputs[2] if len(gemm.inputs) > 2 else None
    row = np.zeros(1, weight.dtype) if bias is None else _array(bias)
    return weight, np.broadcast_to(row, len(weight))


def _array(value: ir.Value | None) -> Array:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    assert tensor is not None, "only constants reach this point"
    return tensor.numpy()


def _common_axes(values: Sequence[ir.Value]) -> Array | None:
    """The axes, behind axis 1, of the Unsqueeze that is the only reader of each value, if they are all the same."""
    if any(len(value.uses()) != 1 or value.is_graph_output() for value in values):
        return None
    readers = [value.consumers()[0] for value in values]
    inputs = [node.inputs[1] for node in readers if node.op_type == "Unsqueeze"]
    if len(inputs) < len(values) or not all(value is not None and _is_constant(value) for value in inputs):
        return None
    axes = [_array(value) for value in inputs]
    return axes[0] if axes[0].min() > 1 and all(np.array_equal(other, axes[0]) for other in axes) else None
