"""The convs and linears of an exported graph, and the precision that its Q/DQ nodes ask an engine for."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from ptq_export.errors import InputError
from ptq_export.graph.model_file import read_proto

__all__ = ["CALLS", "MOVES", "SOURCE_OPS", "WARMUP", "ExportedGraph", "LayerRecord", "asked_layers", "open_graph"]

SOURCE_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Calls of a model, to time its layers.
WARMUP = 3
CALLS = 20
MOVES = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"})


@dataclass(frozen=True)
class LayerRecord:
    """One row of `layers.json`: `op` in the exported graph, `executed` in the engine; `reason` where not plain int8."""

    name: str
    op: str
    executed: str
    precision: str
    intended: str
    reason: str


def asked_layers(source: Path, expected: Mapping[str, str]) -> list[LayerRecord]:
    """Every conv and linear of `source`, in its order, with the precision that its Q/DQ nodes ask an engine for.

    Raises:
        InputError: a layer of `expected` is not in `source`.
    """
    graph = open_graph(source, expected)
    records = []
    for name, node in graph.layers.items():
        is_int8 = all(graph.dequantiser(tensor) is not None for tensor in node.input[:2])
        intended = expected.get(name, "float")
        reason = "" if is_int8 else "kept float" if intended == "float" else "no Q/DQ on its input and weights"
        records.append(LayerRecord(name, node.op_type, "", "int8" if is_int8 else "float", intended, reason))
    return records


def open_graph(source: Path, expected: Mapping[str, str]) -> "ExportedGraph":
    """The graph of an exported ONNX file.

    Raises:
        InputError: a layer of `expected` is not in `source`.
    """
    graph = ExportedGraph(read_proto(source).graph)
    absent = sorted(set(expected) - set(graph.layers))
    if absent:
        raise InputError(f"{source.name} has no layer {', '.join(absent)}", "export it again")
    return graph


class ExportedGraph:
    """The exported graph, indexed by what survives an engine's fusions.

    `layers` are its convs and linears by name, which is their module path; `owner` the layer of a constant that belongs
    to one alone.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.producers = {output: node for node in graph.node for output in node.output}
        self.consumers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in node.input:
                self.consumers.setdefault(name, []).append(node)
        self.outputs = {item.name for item in graph.output}
        self.constants = {item.name for item in graph.initializer}
        self.constants |= {node.output[0] for node in graph.node if node.op_type == "Constant"}
        self.layers: dict[str, onnx.NodeProto] = {
            node.name or node.output[0]: node for node in graph.node if self._is_layer(node)
        }
        owners = Counter(name for node in self.layers.values() for name in set(self.own_constants(node)))
        self.owner: dict[str, str] = {
            constant: name
            for name, node in self.layers.items()
            for constant in self.own_constants(node)
            if owners[constant] == 1
        }

    def own_constants(self, node: onnx.NodeProto) -> Iterator[str]:
        """Weights and bias of a layer, before and after their dequantisation."""
        for name in node.input[1:]:
            chain = list(self._upwards(name, MOVES | {"DequantizeLinear"}))
            if chain[-1] in self.constants:
                yield from chain

    def dequantiser(self, tensor: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that a tensor comes from, be it reshaped on the way."""
        *_, top = self._upwards(tensor, MOVES)
        node = self.producers.get(top)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def is_quantised(self, output: str) -> bool:
        """Whether a tensor, or its sum with a bias, be it reshaped, goes through QuantizeLinear and nothing else."""
        users = self.consumers.get(output, [])
        if len(users) == 1 and (users[0].op_type in MOVES or self._adds_constant(users[0])):
            return self.is_quantised(users[0].output[0])
        return output not in self.outputs and bool(users) and all(user.op_type == "QuantizeLinear" for user in users)

    def _is_layer(self, node: onnx.NodeProto) -> bool:
        return node.op_type in SOURCE_OPS and any(True for _ in self.own_constants(node))

    def _adds_constant(self, node: onnx.NodeProto) -> bool:
        return node.op_type == "Add" and any(name in self.constants for name in node.input)

    def _upwards(self, tensor: str, through: frozenset[str]) -> Iterator[str]:
        """A tensor and what it was made from, as long as nodes of these types made it."""
        yield tensor
        while (node := self.producers.get(tensor)) is not None and node.op_type in through:
            tensor = node.input[0]
            yield tensor
