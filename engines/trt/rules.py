"""What TensorRT refuses or runs slowly, found in the graph before an engine is built.

Every rule has a name, a reason, and the severity of breaking it: an error stops the run, a warning tells what it costs.
The reasons are TensorRT's documentation of explicit quantisation
(https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/work-quantized-types.html) and its parser's
operator table (https://github.com/onnx/onnx-tensorrt/blob/main/docs/operators.md).
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir

from ptq_export.graph.passes.name_layers import LAYER_OPS

__all__ = ["RULES", "Finding", "Rule", "lint"]

MIN_CHANNELS = 16
MAX_TOKENS = 512
QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
INTEGER_OPS = frozenset(
    {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear", "QGemm", "QLinearAdd"}
)
SAME_TYPES = frozenset({"Add", "Sub", "Mul", "Div", "Conv", "ConvTranspose", "Gemm", "MatMul", "InstanceNormalization"})
MOVERS = frozenset({"Resize", "Reshape", "Transpose", "MaxPool"})
FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16})
WEIGHTED = LAYER_OPS | {"ConvTranspose"}


@dataclass(frozen=True)
class Rule:
    """One thing to look for: `check` yields the nodes that break it, each with what was seen there."""

    name: str
    severity: Literal["error", "warning"]
    reason: str
    check: Callable[[ir.Graph], Iterator[tuple[ir.Node, str]]]


@dataclass(frozen=True)
class Finding:
    """A node that breaks a rule."""

    rule: str
    severity: str
    node: str
    seen: str
    reason: str

    def to_json(self) -> dict[str, Any]:
        """An entry of `findings` in `tensorrt.json`."""
        return asdict(self)


def lint(model: ir.Model) -> list[Finding]:
    """Everything in `model` that breaks a rule, errors first."""
    found = [
        Finding(rule.name, rule.severity, node.name or f"{node.op_type} -> {node.outputs[0].name}", seen, rule.reason)
        for rule in RULES
        for node, seen in rule.check(model.graph)
    ]
    return sorted(found, key=lambda finding: finding.severity)


def _zero_points(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in _of(graph, QUANTISERS):
        if len(node.inputs) > 2 and node.inputs[2] is not None:
            value = _constant(node.inputs[2])
            if value is None or value.any():
                yield node, "a zero point computed at run time" if value is None else f"zero point {value.max()}"


def _scales(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in _of(graph, QUANTISERS):
        value = _constant(node.inputs[1])
        if value is None:
            yield node, "a scale computed at run time"
        elif not (np.isfinite(value).all() and (value > 0).all()):
            yield node, f"scale {value.min()}"


def _unsigned_codes(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in _of(graph, QUANTISERS):
        codes = node.outputs[0] if node.op_type == "QuantizeLinear" else node.inputs[0]
        zero_point = node.inputs[2] if len(node.inputs) > 2 else None
        types = {_type(value) for value in (codes, zero_point)}
        default = node.op_type == "QuantizeLinear" and zero_point is None
        if ir.DataType.UINT8 in types or default:
            yield node, "no zero point, which means uint8" if default else "uint8 codes"


def _integer_bias(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in _of(graph, {"DequantizeLinear"}):
        codes = node.inputs[0]
        if codes is not None and _type(codes) == ir.DataType.INT32:
            yield node, f"int32 codes {codes.name}"


def _integer_ops(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in _of(graph, INTEGER_OPS):
        yield node, node.op_type


def _channel_scales(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in _of(graph, QUANTISERS):
        scale = _constant(node.inputs[1])
        if scale is not None and scale.size > 1 and _constant(node.inputs[0]) is None:
            yield node, f"{scale.size} scales on an activation"


def _quantised_between_pad_and_conv(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in _of(graph, {"QuantizeLinear"}):
        source = _producer(node.inputs[0])
        if source is not None and source.op_type == "Pad":
            yield node, f"its input is padded by {source.name}"


def _half_quantised(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in _of(graph, WEIGHTED):
        quantised = [_is_dequantised(value) for value in node.inputs[:2]]
        if any(quantised) and not all(quantised):
            side = "inputs" if quantised[0] else "weights"
            yield node, f"only its {side} come from a DequantizeLinear"


def _weightless(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    """A grid behind an int8 layer is that layer's, whose kernel writes it; one beside it in an Add is read by its
    kernel, which adds it: neither is there for the operation that reads it."""
    for node in graph:
        own = [value for value in node.inputs if _is_dequantised_activation(value) and not _is_written(value)]
        if node.op_type in WEIGHTED | QUANTISERS or not own:
            continue
        if node.op_type == "Add" and any(_is_int8_layer(_producer(value)) for value in node.inputs):
            continue
        users = [use.node.op_type for output in node.outputs for use in output.uses()]
        if not users or any(user != "QuantizeLinear" for user in users):
            yield node, f"{node.op_type} reads a DequantizeLinear, and its result is not quantised"


def _mixed_types(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in _of(graph, SAME_TYPES):
        types = {kind for kind in map(_type, node.inputs) if kind in FLOATS}
        if len(types) > 1:
            yield node, " and ".join(sorted(kind.name for kind in types if kind is not None))


def _narrow_layers(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in _of(graph, WEIGHTED):
        dequantiser = _dequantiser(node.inputs[1])
        codes = None if dequantiser is None else _constant(dequantiser.inputs[0])
        if codes is not None and min(codes.shape[:2]) < MIN_CHANNELS:
            yield node, f"{min(codes.shape[:2])} channels"


def _long_attention(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in _of(graph, {"Softmax"}):
        producer, shape = _producer(node.inputs[0]), node.outputs[0].shape
        tokens = None if shape is None else shape[-1]
        while producer is not None and producer.op_type in ("Mul", "Div", "Add", "Reshape", "Cast"):
            producer = _producer(producer.inputs[0])
        quantised = producer is not None and producer.op_type == "MatMul" and _is_dequantised(producer.inputs[0])
        if quantised and isinstance(tokens, int) and tokens > MAX_TOKENS:
            yield node, f"int8 attention over {tokens} tokens"


def _float_residuals(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in _of(graph, {"Add"}):
        users = [use.node for use in node.outputs[0].uses()]
        layers = [_producer(value) for value in node.inputs]
        int8 = [made for made in layers if _is_int8_layer(made)]
        if users and int8 and all(user.op_type == "QuantizeLinear" for user in users):
            others = [value for value, made in zip(node.inputs, layers, strict=True) if made not in int8]
            if any(_constant(value) is None and not _is_dequantised(value) for value in others):
                yield node, "its residual operand is float and its result is quantised"


def _two_grids(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in _of(graph, MOVERS):
        source = _producer(node.inputs[0])
        if source is None or source.op_type != "DequantizeLinear":
            continue
        before = _constant(source.inputs[1])
        for reader in (use.node for use in node.outputs[0].uses() if use.node.op_type == "QuantizeLinear"):
            after = _constant(reader.inputs[1])
            if before is not None and after is not None and not np.array_equal(before, after):
                yield node, f"its input has scale {before.max():.4g}, its result {after.max():.4g}"


def _open_channels(graph: ir.Graph) -> Iterator[tuple[ir.Node, str]]:
    for node in _of(graph, {"Conv", "ConvTranspose"}):
        shape = None if node.inputs[0] is None else node.inputs[0].shape
        if shape is not None and len(shape) > 1 and not isinstance(shape[1], int):
            yield node, f"{shape[1]} channels"


RULES = (
    Rule("zero-point", "error", "TensorRT quantises around 0: a zero point must be the constant 0", _zero_points),
    Rule("scale", "error", "a scale must be a positive constant", _scales),
    Rule("uint8", "error", "TensorRT has no uint8 activations, and may read such codes as int8", _unsigned_codes),
    Rule(
        "integer-bias",
        "error",
        "the parser refuses int32 codes behind a DequantizeLinear: biases are float",
        _integer_bias,
    ),
    Rule("integer-op", "error", "only Q/DQ can be imported, no operator on codes", _integer_ops),
    Rule("channel-scales", "error", "activations have one scale; only weights have one per channel", _channel_scales),
    Rule("mixed-types", "error", "in a strongly typed network the operands of a layer have one type", _mixed_types),
    Rule("open-channels", "error", "int8 needs a static channel dimension", _open_channels),
    Rule(
        "pad",
        "warning",
        "a quantiser between Pad and Conv keeps TensorRT from merging the padding",
        _quantised_between_pad_and_conv,
    ),
    Rule("half-quantised", "warning", "a layer runs int8 only with both input and weights quantised", _half_quantised),
    Rule(
        "weightless", "warning", "an operation without weights runs int8 only between Q/DQ on both sides", _weightless
    ),
    Rule("narrow", "warning", f"below {MIN_CHANNELS} channels int8 kernels are slower than float16", _narrow_layers),
    Rule(
        "long-attention", "warning", f"int8 attention has no fused kernel beyond {MAX_TOKENS} tokens", _long_attention
    ),
    Rule("two-grids", "warning", "what only moves numbers is free in int8 on one grid alone", _two_grids),
    Rule(
        "residual",
        "warning",
        "with a float operand the Add behind an int8 layer makes a float result, which another pass quantises; with an "
        "int8 one that layer writes int8 itself",
        _float_residuals,
    ),
)


def _of(graph: ir.Graph, operators: frozenset[str] | set[str]) -> Iterator[ir.Node]:
    return (node for node in graph if node.op_type in operators)


def _constant(value: ir.Value | None) -> np.ndarray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()


def _producer(value: ir.Value | None) -> ir.Node | None:
    return None if value is None else value.producer()


def _type(value: ir.Value | None) -> ir.DataType | None:
    if value is None:
        return None
    return value.dtype if value.const_value is None else value.const_value.dtype


def _dequantiser(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that a value comes from, be it moved on the way."""
    node = _producer(value)
    while node is not None and node.op_type in ("Reshape", "Transpose"):
        node = _producer(node.inputs[0])
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _is_dequantised(value: ir.Value | None) -> bool:
    return _dequantiser(value) is not None


def _is_int8_layer(node: ir.Node | None) -> bool:
    return node is not None and node.op_type in WEIGHTED and _is_dequantised(node.inputs[0])


def _is_written(value: ir.Value | None) -> bool:
    """Whether a dequantised value's codes are those of an int8 layer's own result."""
    dequantiser = _producer(value)
    quantiser = None if dequantiser is None else _producer(dequantiser.inputs[0])
    return quantiser is not None and _is_int8_layer(_producer(quantiser.inputs[0]))


def _is_dequantised_activation(value: ir.Value | None) -> bool:
    node = _producer(value)
    return node is not None and node.op_type == "DequantizeLinear" and _constant(node.inputs[0]) is None
