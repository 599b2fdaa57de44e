"""A graph that is being rewritten channels-last: values `[N, C, H, W]`, and their twins `[N, H, W, C]`."""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ptq_export.graph.patterns import constant, producer, sizes, through_pin
from ptq_export.graph.splice import Array

__all__ = ["CONTRIB", "OURS", "Attribute", "Codes", "Twins"]

Attribute: TypeAlias = int | float | Sequence[int]
Codes: TypeAlias = tuple[ir.Value, ir.Value, ir.Value]
"""Channels-last uint8 codes, and a gain and an offset per channel: code * gain + offset."""

OURS = "ptq_export"
CONTRIB = "com.microsoft"
LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


class Twins:
    """The twins found so far. New nodes go in front of `at`, the node that is being rewritten."""

    def __init__(self, graph: ir.Graph) -> None:
        self.graph = graph
        self.at: ir.Node = graph[0]
        self._twins: dict[ir.Value, ir.Value] = {}
        self._computed: list[ir.Value] = []

    def __contains__(self, value: ir.Value | None) -> bool:
        return value in self._twins

    def add(self, value: ir.Value, twin: ir.Value) -> None:
        """`twin` is computed without `value`."""
        self._twins[value] = twin
        self._computed.append(value)

    def known(self, value: ir.Value | None) -> ir.Value | None:
        """The twin that `value` has without a transpose: one that was added, or the codes that it dequantises."""
        value = through_pin(value)
        if value is not None and value not in self._twins and (codes := self.codes(value)) is not None:
            name = f"{value.name}_numbers"
            self.add(value, self.node("DequantizeChannels", codes, name, ir.DataType.FLOAT, OURS))
        return None if value is None else self._twins.get(value)

    def last(self, value: ir.Value) -> ir.Value:
        """The twin of `value`, by a transpose where there is no other."""
        twin = self.known(value)
        if twin is None:
            twin = self._twins[value] = self._transpose(value, LAST, f"{value.name}_last")
        return twin

    def codes(self, value: ir.Value | None) -> Codes | None:
        """What `value` dequantises, if the codes have a twin."""
        node = producer(through_pin(value), "DequantizeLinear")
        if node is None or node.inputs[0] is None or node.inputs[0] not in self._twins:
            return None
        scale, zero = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
        channels = sizes(node.inputs[0])[0]
        if scale is None or zero is None or not isinstance(channels, int):
            return None
        gain = np.broadcast_to(scale.reshape(-1), channels)
        offset = -np.broadcast_to(zero.reshape(-1), channels).astype(np.float64) * gain
        name = node.outputs[0].name
        return self._twins[node.inputs[0]], self.vector(gain, f"{name}_gain"), self.vector(offset, f"{name}_offset")

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        dtype: ir.DataType,
        domain: str = "",
        **attributes: Attribute,
    ) -> ir.Value:
        """The result of a new node, which keeps the module path of the node that it stands for."""
        node = ir.node(op_type, inputs, attributes, domain=domain, name=name)
        node.metadata_props.update(self.at.metadata_props)
        node.outputs[0].name, node.outputs[0].type = f"{name}_last", ir.TensorType(dtype)
        self.graph.insert_before(self.at, node)
        return node.outputs[0]

    def vector(self, numbers: Array, name: str) -> ir.Value:
        """A constant of float32."""
        return self.constant(np.ascontiguousarray(numbers, np.float32), name)

    def constant(self, numbers: Array, name: str) -> ir.Value:
        """A constant; the one of that name, if it is there."""
        if name not in self.graph.initializers:
            value = ir.Value(name=name, const_value=ir.tensor(numbers, name=name))
            value.shape, value.type = ir.Shape(numbers.shape), ir.TensorType(ir.DataType.from_numpy(numbers.dtype))
            self.graph.register_initializer(value)
        return self.graph.initializers[name]

    def finish(self, model: ir.Model) -> None:
        """Whatever still reads a value that has a computed twin reads its transpose; what nothing reads goes."""
        for value in self._computed:
            if value.uses() or value.is_graph_output():
                twin = self._twins[value]
                value.replace_all_uses_with(self._first(value, twin), replace_graph_outputs=True)
        model.graph.opset_imports.update({OURS: 1, CONTRIB: 1})
        while RemoveUnusedNodesPass()(model).modified:  # a twin may stand behind a reader of its value that goes
            pass

    def _first(self, value: ir.Value, twin: ir.Value) -> ir.Value:
        first = self._transpose(twin, FIRST, f"{value.name}_first")
        first.type, first.shape = value.type, value.shape
        if value.is_graph_output():
            first.name, value.name = value.name, first.name
        return first

    def _transpose(self, value: ir.Value, permutation: Sequence[int], name: str) -> ir.Value:
        node = ir.node("Transpose", [value], {"perm": list(permutation)}, name=name)
        node.outputs[0].name, node.outputs[0].type = name, value.type
        made_by = value.producer()
        if made_by is None:
            self.graph.insert_before(self.graph[0], node)
        else:
            self.graph.insert_after(made_by, node)
        return node.outputs[0]
