"""A float32 graph of opset 18 as opset 17 has it, the last one that TensorRT 8.5 (JetPack 5) parses.

ONNX's own converter has no way down from Split of opset 18, and drops the module paths of the nodes.
"""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

from ptq_export.errors import GateFailed
from ptq_export.graph.passes.norm_as_reductions import norm_as_reductions

__all__ = ["OPSET", "Opset17"]

OPSET = 17
IR_VERSION = 8
_END = np.iinfo(np.int64).max
# Attributes that came with opset 18, with the value that means the older operator (None: no value does).
_ADDED: Mapping[str, Mapping[str, object]] = {
    "Resize": {"antialias": 0, "keep_aspect_ratio_policy": "stretch", "axes": None},
    "Split": {"num_outputs": None},
}


class Opset17(ir.passes.FunctionalPass):
    """A copy of a graph of opset 18 in opset 17.

    1. An operator that is the same in both stays.
    2. Resize and Split lose the attributes that came with 18, where the older operator means the same.
    3. A Shape of some dimensions becomes a Slice of the whole shape: TensorRT 8.5 ignores `start` and `end`.
    4. InstanceNormalization, of which TensorRT 8.5 makes a plugin, becomes the means that it is made of.
    5. LayerNormalization, new in 17, is refused: TensorRT 8.5 has none.

    Raises:
        GateFailed: a node means something that opset 17, or TensorRT 8.5, does not know.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        copy = model.clone()
        if copy.opset_imports[""] != OPSET + 1:
            raise GateFailed(f"the graph has opset {copy.opset_imports['']}, not {OPSET + 1}")
        for node in list(copy.graph):
            _check_operator(node)
            _drop_defaults(node)
            if node.op_type == "Shape" and node.attributes:
                _slice_shape(copy.graph, node)
            if node.op_type == "InstanceNormalization":
                norm_as_reductions(copy.graph, node)
        copy.opset_imports[""] = OPSET
        copy.ir_version = IR_VERSION
        return ir.passes.PassResult(copy, modified=True)


def _check_operator(node: ir.Node) -> None:
    if node.op_type == "LayerNormalization":
        raise GateFailed(f"{node.name}: TensorRT 8.5 has no LayerNormalization", "take --jetpack 6 or newer")
    since = onnx.defs.get_schema(node.op_type, OPSET + 1, node.domain).since_version
    if since > OPSET and node.op_type not in _ADDED:
        raise GateFailed(f"{node.name}: {node.op_type} of opset {since} has no form in opset {OPSET}")


def _drop_defaults(node: ir.Node) -> None:
    older = _ADDED.get(node.op_type, {})
    for name in older.keys() & node.attributes.keys():
        attribute = node.attributes.pop(name)
        if attribute.value != older[name] and not (name == "num_outputs" and _is_even(node, attribute.as_int())):
            raise GateFailed(f"{node.name}: {node.op_type} with {name}={attribute.value} has no form in opset {OPSET}")


def _is_even(node: ir.Node, parts: int) -> bool:
    """Whether a Split makes parts of one size, as it does in opset 17 when it is told nothing."""
    shape = None if node.inputs[0] is None else node.inputs[0].shape
    size = None if shape is None else shape[node.attributes.get_int("axis", 0)]
    return isinstance(size, int) and size % parts == 0


def _slice_shape(graph: ir.Graph, node: ir.Node) -> None:
    bounds = [node.attributes.get_int("start", 0), node.attributes.get_int("end", _END)]
    node.attributes.clear()
    whole = node.outputs[0]
    if bounds == [0, _END]:
        return
    ends = [
        ir.val(f"{whole.name}_{name}", const_value=ir.tensor(np.array([value], np.int64)))
        for name, value in zip(("start", "end"), bounds, strict=True)
    ]
    for value in ends:
        graph.register_initializer(value)
    part = ir.node("Slice", [whole, *ends], name=f"{node.name}_slice", metadata_props=dict(node.metadata_props))
    part.outputs[0].name = f"{whole.name}_slice"
    part.outputs[0].type, part.outputs[0].shape, whole.shape = whole.type, whole.shape, None
    for use in list(whole.uses()):
        use.node.replace_input_with(use.idx, part.outputs[0])
    part.replace_input_with(0, whole)
    graph.insert_after(node, part)
