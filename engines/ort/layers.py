"""Intended int8 = executed int8: every conv and linear of a graph, and what ONNX Runtime made of it.

The optimised graph is the engine's own, but its fusions rename: `QLinearConv` gets a suffix, a fused bias or
activation wraps the name, and a blocked (NCHWc) convolution keeps nothing but the name of its output. So each layer is
found again by its name, else by the constants that belong to it alone, else by the output it had in the source graph.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx

from ptq_export.engines.exported_layers import SOURCE_OPS, ExportedGraph, LayerRecord, open_graph
from ptq_export.graph.model_file import read_proto

__all__ = ["executed_layers", "layer_of_nodes"]

INT8_OPS = frozenset(
    {"QLinearConv", "WinogradConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "ConvInteger", "MatMulInteger"}
)
FLOAT_OPS = SOURCE_OPS | {"FusedConv", "NhwcFusedConv", "FusedGemm", "FusedMatMul", "FusedMatMulActivation"}
BLOCKED = "com.microsoft.nchwc"
WRAPPERS = (re.compile(r"^fused "), re.compile(r"_token_\d+$"), re.compile(r"_nchwc$"), re.compile(r"/.*$"))


def executed_layers(source: Path, optimised: Path, expected: Mapping[str, str]) -> list[LayerRecord]:
    """Every conv and linear of `source`, in its order, with the precision in which `optimised` computes it.

    Args:
        source: The exported ONNX, whose nodes bear the module paths of their layers.
        optimised: The same graph as the engine executes it (`OrtEngine.optimised_path`).
        expected: `int8` or `float` per module path; a layer without an entry is expected to be float.

    Raises:
        InputError: a layer of `expected` is not in `source`.
    """
    graph = open_graph(source, expected)
    executed: dict[str, list[str]] = {name: [] for name in graph.layers}
    for node in _compute_nodes(read_proto(optimised).graph):
        name = _layer_of(graph, node)
        if name is not None:
            executed[name].append(_full_op(node))
    return [_record(graph, name, executed[name], expected.get(name, "float")) for name in graph.layers]


def layer_of_nodes(source: Path, optimised: Path) -> dict[str, str]:
    """The module path of the layer that each conv and linear node (by name) of `optimised` computes."""
    graph = open_graph(source, {})
    found = {node.name: _layer_of(graph, node) for node in _compute_nodes(read_proto(optimised).graph)}
    return {node: layer for node, layer in found.items() if layer is not None}


def _layer_of(graph: ExportedGraph, node: onnx.NodeProto) -> str | None:
    """The layer that a node of the optimised graph computes."""
    bare: str = node.name
    if bare in graph.layers:
        return bare
    for wrapper in WRAPPERS:
        bare = wrapper.sub("", bare)
    if bare in graph.layers:
        return bare
    for name in node.input:
        if name in graph.owner:
            return graph.owner[name]
    return _layer_above(graph, bare.removesuffix("_pre_q")) if node.domain == BLOCKED else None


def _layer_above(graph: ExportedGraph, tensor: str) -> str | None:
    """The layer that made a tensor, through the activation that was fused into it."""
    while (node := graph.producers.get(tensor)) is not None and node.input:
        name: str = node.name
        if name in graph.layers:
            return name
        tensor = node.input[0]
    return None


def _compute_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    return (node for node in graph.node if node.op_type in INT8_OPS | FLOAT_OPS)


def _full_op(node: onnx.NodeProto) -> str:
    return f"{node.op_type} (blocked)" if node.domain == BLOCKED else str(node.op_type)


def _record(graph: ExportedGraph, name: str, executed: list[str], intended: str) -> LayerRecord:
    is_int8 = bool(executed) and all(op in INT8_OPS for op in executed)
    ops = " + ".join(executed) or "folded"
    node = graph.layers[name]
    reason = _reason_int8(graph, node) if is_int8 else _reason_float(graph, node, executed, intended)
    return LayerRecord(name, node.op_type, ops, "int8" if is_int8 else "float", intended, reason)


def _reason_int8(graph: ExportedGraph, node: onnx.NodeProto) -> str:
    """Empty, unless the codes are not those of the exported graph."""
    return "" if graph.dequantiser(node.input[1]) else "ONNX Runtime quantised its float weights: Q/DQ on both sides"


def _reason_float(graph: ExportedGraph, node: onnx.NodeProto, executed: list[str], intended: str) -> str:
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
