"""`x * 1` and `x + 0` with constants of ones and zeros: the exporter writes them for norms without an affine."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

__all__ = ["DropNeutral"]

_NEUTRAL = {"Mul": 1.0, "Add": 0.0}


class DropNeutral(ir.passes.InPlacePass):
    """Remove Mul and Add nodes with a constant operand that changes neither values nor shape of the other."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            kept = _unchanged(node)
            if kept is None or node.outputs[0].is_graph_output():
                continue
            ir.convenience.replace_all_uses_with(node.outputs[0], kept)
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _unchanged(node: ir.Node) -> ir.Value | None:
    """The operand that the node's result equals."""
    if node.op_type not in _NEUTRAL or node.domain != "":
        return None
    for kept, other in (node.inputs, reversed(node.inputs)):
        constant = None if other is None else ir.convenience.get_const_tensor(other)
        if kept is None or kept.shape is None or constant is None:
            continue
        if bool(np.all(constant.numpy() == _NEUTRAL[node.op_type])) and _fits(list(constant.shape), list(kept.shape)):
            return kept
    return None


def _fits(small: Sequence[object], large: Sequence[object]) -> bool:
    """Whether broadcasting dimensions `small` against `large` leaves the latter."""
    pairs = zip(reversed(small), reversed(large), strict=False)
    return len(small) <= len(large) and all(dim in (1, other) for dim, other in pairs)
