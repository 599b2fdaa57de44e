"""Reshapes whose target is computed at run time though only the batch is open: it becomes a constant with -1."""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

__all__ = ["ConstantShapes"]


class ConstantShapes(ir.passes.InPlacePass):
    """Replace a computed target of Reshape by `[-1, C, ...]`.

    1. The result's shape must be known but for its first dimension.
    2. A target that is a constant already stays.

    The result's shape is noted. What computed the target goes where nothing else reads it. The module that owns a
    Reshape can then run alone: its target no longer comes from some other module's activation.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in model.graph:
            target = _constant_target(node)
            if target is None:
                continue
            name = f"shape_{'_'.join(map(str, target[1:]))}"
            if name not in model.graph.initializers:
                tensor = ir.tensor(np.array(target, np.int64), name=name)
                model.graph.register_initializer(ir.Value(name=name, const_value=tensor))
            node.replace_input_with(1, model.graph.initializers[name])
            node.outputs[0].shape = ir.Shape([None, *target[1:]])
            modified = True
        if modified:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=modified)


def _constant_target(node: ir.Node) -> list[int] | None:
    if node.op_type != "Reshape" or node.inputs[1] is None or node.inputs[1].producer() is None:
        return None
    shape = node.outputs[0].shape
    if shape is None or not all(isinstance(size, int) for size in shape[1:]):
        shape = _shape_read(node.inputs[1])
    if shape is None or len(shape) < 2 or not all(isinstance(size, int) for size in shape[1:]):
        return None
    return [-1, *(int(size) for size in shape[1:] if isinstance(size, int))]


def _shape_read(target: ir.Value) -> ir.Shape | None:
    """The shape of x where the target is Shape(x)."""
    producer = target.producer()
    if producer is None or producer.op_type != "Shape" or producer.inputs[0] is None:
        return None
    start = producer.attributes.get_int("start", 0)
    return producer.inputs[0].shape if start == 0 and "end" not in producer.attributes else None
