"""Intended int8 = executed int8: every conv and linear of a graph, and what OpenVINO made of it.

OpenVINO's runtime model names for each of its nodes the nodes of the source graph that went into it
(`originalLayersNames`), the precision of the kernel (`runtimePrecision`) and the kernel (`primitiveType`).
https://docs.openvino.ai/2026/openvino-workflow/running-inference/integrate-openvino-with-your-application.html
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ptq_export.engines.exported_layers import ExportedGraph, LayerRecord, open_graph

__all__ = ["executed_layers", "layer_of_nodes"]

PRODUCTS = frozenset({"Convolution", "Deconvolution", "FullyConnected", "MatMul"})
BARE = "/WithoutBiases"  # what OpenVINO adds to the name of a Gemm that has no bias
INT8 = frozenset({"u8", "i8"})


def executed_layers(source: Path, runtime_model: Any, expected: Mapping[str, str]) -> list[LayerRecord]:
    """Every conv and linear of `source`, in its order, with the precision in which `runtime_model` computes it.

    Args:
        source: The exported ONNX, whose nodes bear the module paths of their layers.
        runtime_model: `CompiledModel.get_runtime_model()` of it.
        expected: `int8` or `float` per module path; a layer without an entry is expected to be float.

    Raises:
        InputError: a layer of `expected` is not in `source`.
    """
    graph = open_graph(source, expected)
    kernels: dict[str, list[tuple[str, str]]] = {name: [] for name in graph.layers}
    for facts, layer in _products(graph, runtime_model):
        kernels[layer].append((facts["runtimePrecision"], facts["primitiveType"]))
    return [_record(graph, name, kernels[name], expected.get(name, "float")) for name in graph.layers]


def layer_of_nodes(source: Path, runtime_model: Any) -> dict[str, str]:
    """The module path of the layer that each conv and linear node (by name) of a runtime model computes."""
    return {facts["name"]: layer for facts, layer in _products(open_graph(source, {}), runtime_model)}


def _products(graph: ExportedGraph, runtime_model: Any) -> Iterator[tuple[dict[str, str], str]]:
    for node in runtime_model.get_ordered_ops():
        facts = {key: _text(value) for key, value in node.get_rt_info().items()} | {"name": node.get_friendly_name()}
        if facts["layerType"] not in PRODUCTS:
            continue
        origins = (name.removesuffix(BARE) for name in facts["originalLayersNames"].split(","))
        layers = [name for name in origins if name in graph.layers]
        if layers:
            yield facts, layers[0]


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)


def _record(graph: ExportedGraph, name: str, kernels: list[tuple[str, str]], intended: str) -> LayerRecord:
    is_int8 = bool(kernels) and all(precision in INT8 for precision, _ in kernels)
    executed = " + ".join(kernel for _, kernel in kernels) or "folded"
    node = graph.layers[name]
    reason = "" if is_int8 else _reason_float(graph, name, kernels, intended)
    return LayerRecord(name, node.op_type, executed, "int8" if is_int8 else "float", intended, reason)


def _reason_float(graph: ExportedGraph, name: str, kernels: list[tuple[str, str]], intended: str) -> str:
    node = graph.layers[name]
    if intended == "float":
        return "kept float"
    if not kernels:
        return "folded into a constant or removed"
    if graph.dequantiser(node.input[1]) is None:
        return "its weights are float"
    if graph.dequantiser(node.input[0]) is None:
        return "no Q/DQ on its input"
    return f"OpenVINO computes it in {kernels[0][0]} ({kernels[0][1]})"
