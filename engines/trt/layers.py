"""Intended int8 = executed int8: TensorRT's own account of an engine (its inspector's JSON), tied to the ONNX layers.

What the JSON calls things depends on the version: a tensor's type stands in `Format/Datatype` up to TensorRT 10 (`Row
major Int8 format`, later `Int8`) and in `Datatype` in 11; a layer lists the ONNX nodes in it in `Metadata` from 8.6 on
(`[ONNX Layer: name]`, control characters between them), before that only in its own name (`a + b`, `a || b`). Layer
types are `CaskConvolution` and the like, or `correlation`, `gemm`, `kgen` where its graph compiler made the kernel.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptq_export.engines.exported_layers import LayerRecord, open_graph
from ptq_export.errors import GateFailed

__all__ = ["EngineLayer", "executed_layers", "layer_times_ms", "parse_inspector"]

NODES = re.compile(r"\[ONNX Layer: ([^\]|]+?)(?: \|[^\]]*)?\]")
JOINTS = re.compile(r" \+ | \|\| |\.\.\.|[{}()]|ForeignNode\[|\]")
SUFFIX = re.compile(r"_myl\d+(_\d+)?$")
PRODUCT = re.compile(r"conv|correlation|gemm|matrixmul|matmul|fullyconnected|fprop|mma", re.I)
MOVE = re.compile(r"reformat|constant|shuffle|noop|move|signal|wait|cast|quantize|shape", re.I)
OPAQUE = "Myelin"
INT8_KERNEL = re.compile(r"i8i8|s8s8|int8|imma|i8816|_s8_", re.I)
FLOAT_KERNEL = re.compile(r"f16f16|f32f32|tf32|h\d+gemm|hmma|sgemm|scudnn", re.I)


@dataclass(frozen=True)
class EngineLayer:
    """One layer of an engine: `nodes` are the ONNX nodes in it, `reads` the types of its inputs, `weights` the type of
    its constants where it is told."""

    name: str
    kind: str
    nodes: tuple[str, ...]
    reads: tuple[str, ...]
    weights: str
    tactic: str

    @property
    def multiplies(self) -> bool:
        """Whether its type or its kernel is that of a convolution or matrix product."""
        return not self.moves and PRODUCT.search(f"{self.kind} {self.tactic}") is not None

    @property
    def moves(self) -> bool:
        """Whether it only moves or converts data."""
        return MOVE.search(self.kind) is not None

    @property
    def float_reason(self) -> str:
        """Why it is not an int8 product; empty where it is one."""
        if self.kind == OPAQUE:
            return f"inside {self.name}, which TensorRT does not open"
        if self.weights and not _is_int8(self.weights):
            return f"{self.kind}: its weights are {self.weights}"
        if INT8_KERNEL.search(self.tactic):
            return ""
        if FLOAT_KERNEL.search(self.tactic):
            return f"{self.kind}: its kernel is {self.tactic}"
        if self.reads and _is_int8(self.reads[0]):
            return ""
        return f"{self.kind}: it reads {self.reads[0] if self.reads else 'nothing that is told'}"


def parse_inspector(text: str) -> list[EngineLayer]:
    """The layers of the inspector's JSON, in the order of execution.

    Raises:
        GateFailed: the engine was built without detailed verbosity: it holds names only.
    """
    layers = json.loads(text)["Layers"]
    if any(isinstance(layer, str) for layer in layers):
        raise GateFailed("the engine tells the names of its layers only", "build it with detailed profiling verbosity")
    return [_parsed(layer) for layer in layers]


def executed_layers(source: Path, text: str, expected: Mapping[str, str]) -> list[LayerRecord]:
    """Every conv and linear of the ONNX file `source`, in its order, with the precision in which an engine computes it.

    Args:
        source: The exported ONNX, whose nodes bear the module paths of their layers.
        text: The inspector's JSON of the engine that was built of it.
        expected: `int8` or `float` per module path; a layer without an entry is expected to be float.

    Raises:
        InputError: a layer of `expected` is not in `source`.
        GateFailed: see `parse_inspector`.
    """
    graph = open_graph(source, expected)
    found = _computing(graph.layers, parse_inspector(text))
    return [
        _record(name, node.op_type, found[name], expected.get(name, "float")) for name, node in graph.layers.items()
    ]


def layer_times_ms(source: Path, text: str, times_ms: Mapping[str, float]) -> dict[str, float]:
    """Milliseconds of each conv and linear of `source`, from those of the engine's layers by name.

    A kernel that computes several of them counts for each in equal parts.
    """
    names = open_graph(source, {}).layers
    found = _computing(names, parse_inspector(text))
    sharing: dict[str, int] = {}
    for layers in found.values():
        for layer in layers:
            sharing[layer.name] = sharing.get(layer.name, 0) + 1
    return {
        name: sum(times_ms.get(layer.name, 0.0) / sharing[layer.name] for layer in layers)
        for name, layers in found.items()
    }


def _parsed(layer: Mapping[str, Any]) -> EngineLayer:
    name, metadata = str(layer["Name"]), str(layer.get("Metadata", ""))
    nodes = NODES.findall(metadata) or [SUFFIX.sub("", part.strip()) for part in JOINTS.split(name)]
    reads = tuple(str(each.get("Datatype") or each.get("Format/Datatype", "")) for each in layer.get("Inputs", ()))
    weights = layer.get("Weights")
    return EngineLayer(
        name=name,
        kind=str(layer.get("LayerType", "")),
        nodes=tuple(node for node in nodes if node),
        reads=reads,
        weights=str(weights.get("Type", "")) if isinstance(weights, Mapping) else "",
        tactic=str(layer.get("TacticName", "")),
    )


def _computing(names: Iterable[str], layers: Iterable[EngineLayer]) -> dict[str, list[EngineLayer]]:
    """Per ONNX layer, the engine's layers that compute it: products before generated kernels, no mere movement."""
    found: dict[str, list[EngineLayer]] = {name: [] for name in names}
    for layer in layers:
        for node in dict.fromkeys(layer.nodes):
            if node in found and not layer.moves:
                found[node].append(layer)
    return {name: [layer for layer in each if layer.multiplies] or each for name, each in found.items()}


def _record(name: str, op: str, layers: list[EngineLayer], intended: str) -> LayerRecord:
    reasons = [layer.float_reason for layer in layers if layer.float_reason]
    is_int8 = bool(layers) and not reasons
    executed = " + ".join(layer.kind for layer in layers) or "folded"
    reason = "" if is_int8 else "; ".join(dict.fromkeys(reasons)) or "no layer of the engine names it"
    if not is_int8 and intended == "float":
        reason = "kept float"
    return LayerRecord(name, op, executed, "int8" if is_int8 else "float", intended, reason)


def _is_int8(kind: str) -> bool:
    return "int8" in kind.lower()
