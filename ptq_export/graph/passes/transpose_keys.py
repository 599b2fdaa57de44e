"""The keys of attention, transposed by one node: the exporter writes three, and computes their shapes at run time.

ONNX Runtime folds a plain Transpose into the MatMul behind it; it does not see through the reshapes.
"""

from collections.abc import Sequence
from typing import TypeAlias

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

__all__ = ["TransposeKeys"]

Size: TypeAlias = int | ir.SymbolicDim
SWAP_LAST = (0, 1, 3, 2)


class TransposeKeys(ir.passes.InPlacePass):
    """Reshape of `[N, h, S, d]` to `[-1, S, d]`, Transpose (0, 2, 1), Reshape to `[N, h, d, S]`: one Transpose.

    The targets of the Reshapes may be computed, from the shape of the same tensor.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            keys = _keys(node)
            if keys is None or keys.shape is None:
                continue
            transpose = ir.node("Transpose", [keys], {"perm": SWAP_LAST}, name=f"{node.name}_keys")
            transpose.metadata_props.update(node.metadata_props)
            result, old = transpose.outputs[0], node.outputs[0]
            result.name, result.type = f"{old.name}_keys", old.type
            result.shape = ir.Shape([keys.shape[axis] for axis in SWAP_LAST])
            model.graph.insert_before(node, transpose)
            old.replace_all_uses_with(result, replace_graph_outputs=True)
            modified = True
        if modified:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=modified)


def _keys(back: ir.Node) -> ir.Value | None:
    """What the three nodes that end in `back` transpose."""
    transpose = _producer(back, "Reshape")
    apart = None if transpose is None else _producer(transpose, "Transpose")
    keys = None if apart is None or apart.op_type != "Reshape" else apart.inputs[0]
    if transpose is None or apart is None or keys is None or keys.shape is None or len(keys.shape) != 4:
        return None
    if list(transpose.attributes.get_ints("perm", [])) != [0, 2, 1]:
        return None
    images, heads, tokens, width = keys.shape
    targets = _sizes(apart.inputs[1]), _sizes(back.inputs[1])
    return keys if targets == ([-1, tokens, width], [images, heads, width, tokens]) else None


def _producer(node: ir.Node, op_type: str) -> ir.Node | None:
    """What makes the first input of a node of this type."""
    if node.op_type != op_type or node.inputs[0] is None:
        return None
    return node.inputs[0].producer()


def _sizes(target: ir.Value | None) -> Sequence[Size] | None:
    """The sizes that a target holds: a constant, or parts of some tensor's shape."""
    tensor = None if target is None else ir.convenience.get_const_tensor(target)
    if tensor is not None:
        return [int(size) for size in tensor.numpy().reshape(-1)]
    node = None if target is None else target.producer()
    if node is None:
        return None
    if node.op_type == "Shape" and node.inputs[0] is not None and node.inputs[0].shape is not None:
        shape = list(node.inputs[0].shape)
        return shape[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(shape))]
    parts = [_sizes(value) for value in node.inputs]
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None
    if node.op_type == "Concat":
        return [size for part in known for size in part]
    ends = [size for part in known[1:] for size in part if isinstance(size, int)]
    if node.op_type == "Slice" and len(known) == 3 and len(ends) == 2:
        return known[0][slice(*ends)]
    return None
