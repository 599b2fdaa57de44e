"""A float32 graph of opset 18 as opset 17 has it, the last one that TensorRT 8.5 (JetPack 5) parses.

ONNX's own converter has no way down from Split of opset 18, and drops the module paths of the nodes.
"""

from collections.abc import Mapping

import onnx
import onnx_ir as ir

from ptq_export.errors import GateFailed

__all__ = ["OPSET", "Opset17"]

OPSET, IR_VERSION = 17, 8
# Attributes that came with opset 18, with the value that means the older operator (None: no value does).
_ADDED: Mapping[str, Mapping[str, object]] = {
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": "stretch", "axes": None},
    "Split": {"num_outputs": None},
}


class Opset17(ir.passes.FunctionalPass):
    """A copy of a graph of opset 18 in opset 17.

    1. An operator that is the same in both stays.
    2. Resize and Split lose the attributes that came with 18, where the older operator means the same.
    3. Shape loses `start=0`: TensorRT 8.5 reads neither `start` nor `end`.

    Raises:
        GateFailed: a node means something that opset 17, or TensorRT 8.5, does not know.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        copy = model.clone()
        if copy.opset_imports[""] != OPSET + 1:
            raise GateFailed(f"the graph has opset {copy.opset_imports['']}, not {OPSET + 1}")
        for node in copy.graph:
            _check_operator(node)
            _drop_defaults(node)
        copy.opset_imports[""] = OPSET
        copy.ir_version = IR_VERSION
        return ir.passes.PassResult(copy, modified=True)


def _check_operator(node: ir.Node) -> None:
    since = onnx.defs.get_schema(node.op_type, OPSET + 1, node.domain).since_version
    if since > OPSET and node.op_type not in _ADDED:
        raise GateFailed(f"{node.name}: {node.op_type} of opset {since} has no form in opset {OPSET}")


def _drop_defaults(node: ir.Node) -> None:
    older: Mapping[str, object] = {"start": 0, "end": None} if node.op_type == "Shape" else _ADDED.get(node.op_type, {})
    for name in older.keys() & node.attributes.keys():
        attribute = node.attributes.pop(name)
        if attribute.value != older[name] and not (name == "num_outputs" and _is_even(node, attribute.as_int())):
            raise GateFailed(f"{node.name}: {node.op_type} with {name}={attribute.value} has no form in opset {OPSET}")


def _is_even(node: ir.Node, parts: int) -> bool:
    """Whether a Split makes parts of one size, as it does in opset 17 when it is told nothing."""
    shape = None if node.inputs[0] is None else node.inputs[0].shape
    size = None if shape is None else shape[node.attributes.get_int("axis", 0)]
    return isinstance(size, int) and size % parts == 0
