"""Intended int8 = executed int8: every conv and linear of a graph, and what ONNX Runtime made of it.

The optimised graph is the engine's own, but its fusions rename: `QLinearConv` gets a suffix, a fused bias or
activation wraps the name, and a blocked (NCHWc) convolution keeps nothing but the name of its output. So each layer is
found again by its name, else by the constants that belong to it alone, else by the output it had in the source graph.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx

from ptq_export.errors import InputError

__all__ = ["LayerRecord", "asked_layers", "executed_layers", "layer_of_nodes"]

SOURCE_OPS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
INT8_OPS = frozenset({"QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "ConvInteger", "MatMulInteger"})
FLOAT_OPS = SOURCE_OPS | {"FusedConv", "NhwcFusedConv", "FusedGemm", "FusedMatMul", "FusedMatMulActivation"}
BLOCKED = "com.microsoft.nchwc"
MOVES = frozenset({"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze"})
WRAPPERS = (re.compile(r"^fused "), re.compile(r"_token_\d+$"), re.compile(r"_nchwc$"), re.compile(r"/.*$"))


@dataclass(frozen=True)
class LayerRecord:
    """One row of `layers.json`: `op` in the exported graph, `executed` in the engine; `reason` where not plain int8."""

    name: str
    op: str
    executed: str
    precision: str
    intended: str
    reason: str


def executed_layers(source: Path, optimised: Path, expected: Mapping[str, str]) -> list[LayerRecord]:
    """Every conv and linear of `source`, in its order, with the precision in which `optimised` computes it.

    Args:
        source: The exported ONNX, whose nodes bear the module paths of their layers.
        optimised: The same graph as the engine executes it (`OrtEngine.optimised_path`).
        expected: `int8` or `float` per module path; a layer without an entry is expected to be float.

    Raises:
        InputError: a layer of `expected` is not in `source`.
    """
    graph = _open(source, expected)
    executed: dict[str, list[str]] = {name: [] for name in graph.layers}
    for node in _compute_nodes(onnx.load(optimised).graph):
        name = graph.layer_of(node)
        if name is not None:
            executed[name].append(_full_op(node))
    return [_record(graph, name, executed[name], expected.get(name, "float")) for name in graph.layers]


def asked_layers(source: Path, expected: Mapping[str, str]) -> list[LayerRecord]:
    """Every conv and linear of `source`, in its order, with the precision that its Q/DQ nodes ask an engine for.

    Raises:
        InputError: a layer of `expected` is not in `source`.
    """
    graph = _open(source, expected)
    records = []
    for name, node in graph.layers.items():
        is_int8 = all(graph.dequantiser(tensor) is not None for tensor in node.input[:2])
        intended = expected.get(name, "float")
        reason = "" if is_int8 else "kept float" if intended == "float" else "no Q/DQ on its input and weights"
        records.append(LayerRecord(name, node.op_type, "", "int8" if is_int8 else "float", intended, reason))
    return records


def layer_of_nodes(source: Path, optimised: Path) -> dict[str, str]:
    """The module path of the layer that each conv and linear node (by name) of `optimised` computes."""
    graph = _Source(onnx.load(source).graph)
    found = {node.name: graph.layer_of(node) for node in _compute_nodes(onnx.load(optimised).graph)}
    return {node: layer for node, layer in found.items() if layer is not None}


def _open(source: Path, expected: Mapping[str, str]) -> "_Source":
    graph = _Source(onnx.load(source).graph)
    absent = sorted(set(expected) - set(graph.layers))
    if absent:
        raise InputError(f"{source.name} has no layer {', '.join(absent)}", "export it again")
    return graph


class _Source:
    """The exported graph, indexed by what survives the engine's fusions."""

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

    def layer_of(self, node: onnx.NodeProto) -> str | None:
        """The layer that a node of the optimised graph computes."""
        bare: str = node.name
        if bare in self.layers:
            return bare
        for wrapper in WRAPPERS:
            bare = wrapper.sub("", bare)
        if bare in self.layers:
            return bare
        for name in node.input:
            if name in self.owner:
                return self.owner[name]
        return self._layer_above(bare.removesuffix("_pre_q")) if node.domain == BLOCKED else None

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

    def _layer_above(self, tensor: str) -> str | None:
        """The layer that made a tensor, through the activation that was fused into it."""
        while (node := self.producers.get(tensor)) is not None and node.input:
            name: str = node.name
            if name in self.layers:
                return name
            tensor = node.input[0]
        return None


def _compute_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    return (node for node in graph.node if node.op_type in INT8_OPS | FLOAT_OPS)


def _full_op(node: onnx.NodeProto) -> str:
    return f"{node.op_type} (blocked)" if node.domain == BLOCKED else str(node.op_type)


def _record(graph: _Source, name: str, executed: list[str], intended: str) -> LayerRecord:
    is_int8 = bool(executed) and all(op in INT8_OPS for op in executed)
    ops = " + ".join(executed) or "folded"
    node = graph.layers[name]
    reason = _reason_int8(graph, node) if is_int8 else _reason_float(graph, node, executed, intended)
    return LayerRecord(name, node.op_type, ops, "int8" if is_int8 else "float", intended, reason)


def _reason_int8(graph: _Source, node: onnx.NodeProto) -> str:
    """Empty, unless the codes are not those of the exported graph."""
    return "" if graph.dequantiser(node.input[1]) else "ONNX Runtime quantised its float weights: Q/DQ on both sides"


def _reason_float(graph: _Source, node: onnx.NodeProto, executed: list[str], intended: str) -> str:
    """Why a layer is not int8, from the pattern that ONNX Runtime looks for around it."""
    if intended == "float":
        return "kept float"
    if not executed:
        return "folded into a constant or removed"
    weights = graph.dequantiser(node.input[1])
    if weights is None:
        return "its weights are float"
    if graph.dequantiser(node.input[0]) is None:
        return "no Q/DQ on its input"
    if node.op_type != "Conv" and len(weights.input) < 3:
        return "no zero point on its weights"
    float_bias = len(node.input) > 2 and graph.dequantiser(node.input[2]) is None
    if not graph.is_quantised(node.output[0]) and (node.op_type != "Gemm" or float_bias):
        return "no Q on its output" if node.op_type != "Gemm" else "no Q on its output, and its bias is float"
    return "ONNX Runtime has no int8 kernel for it here"
