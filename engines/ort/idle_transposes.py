"""Transposes that move nothing: around attention of one head, the axis of heads has size one."""

import numpy as np
import onnx_ir as ir

from ptq_export.graph.splice import record, splice

__all__ = ["IdleTransposes"]


class IdleTransposes(ir.passes.InPlacePass):
    """A Transpose that keeps the order of all axes longer than one becomes a Reshape, which copies nothing."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = {node: _target(node) for node in model.graph if node.op_type == "Transpose"}
        idle = {node: target for node, target in found.items() if target is not None}
        for node, target in idle.items():
            tape, name = ir.tape.Tape(), f"{node.outputs[0].name}_reshaped"
            shape = tape.initializer(ir.tensor(np.array(target, np.int64), name=f"{name}_shape"))
            reshaped = record(tape, "Reshape", [node.inputs[0], shape], name)
            splice(model, node, tape, {node.outputs[0]: reshaped})
        return ir.passes.PassResult(model, modified=bool(idle))


def _target(node: ir.Node) -> list[int] | None:
    """The shape that a Reshape is given; None where numbers move, or an open size would have to."""
    given = node.inputs[0]
    order = list(node.attributes.get_ints("perm", []))
    if given is None or given.shape is None or len(given.shape) != len(order):
        return None
    moved = [axis for axis in order if given.shape[axis] != 1]
    if moved != sorted(moved):
        return None
    sizes = [given.shape[axis] for axis in order]
    target = [size if isinstance(size, int) else 0 for size in sizes]  # 0: as it is at this place
    stays = all(size or axis == place for place, (size, axis) in enumerate(zip(target, order, strict=True)))
    return target if stays else None
