"""Attention of several heads as one operator of ONNX Runtime's own, which never holds the whole matrix of weights.

Its MultiHeadAttention (domain `com.microsoft`) computes a block of it at a time, as FlashAttention does
(https://arxiv.org/abs/2205.14135), and reads heads where the linears before it wrote them.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptq_export.engines.ort.nhwc_values import CONTRIB
from ptq_export.graph.patterns import constant, producer
from ptq_export.graph.splice import record, splice

__all__ = ["FuseAttention"]

BY_HEAD, TURNED = [0, 2, 1, 3], [0, 1, 3, 2]


class FuseAttention(ir.passes.InPlacePass):
    """softmax(q k' scale) v, whose heads are a Reshape of rows each, becomes one MultiHeadAttention.

    One head stays: none of its axes moves, and two matrix products are as fast there.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = {node: _match(node) for node in model.graph}
        attentions = {node: attention for node, attention in found.items() if attention is not None}
        for node, attention in attentions.items():
            _fuse(model, node, attention)
        return ir.passes.PassResult(model, modified=bool(attentions))


@dataclass(frozen=True)
class _Heads:
    """`rows` as `[N, tokens, heads, width]`."""

    rows: ir.Value
    tokens: int
    heads: int
    width: int


@dataclass(frozen=True)
class _Attention:
    queries: _Heads
    keys: _Heads
    values: _Heads
    scale: float


def _match(node: ir.Node) -> _Attention | None:
    """The attention whose heads `node` puts side by side again, if it does."""
    product = producer(node.inputs[0], "MatMul") if _permutation(node) == BY_HEAD else None
    softmax = None if product is None else producer(product.inputs[0], "Softmax")
    scores = None if softmax is None else producer(softmax.inputs[0], "MatMul")
    if product is None or softmax is None or scores is None or softmax.attributes.get_int("axis", -1) not in (-1, 3):
        return None
    (queries, scale), (turned, times) = _scaled(scores.inputs[0]), _scaled(scores.inputs[1])
    keys = producer(turned, "Transpose")
    if keys is None or _permutation(keys) != TURNED:
        return None
    q, k, v = (_heads(value) for value in (queries, keys.inputs[0], product.inputs[1]))
    if q is None or k is None or v is None or q.heads == 1:
        return None
    same = (q.heads, q.width) == (k.heads, k.width) and (k.tokens, k.heads, k.width) == (v.tokens, v.heads, v.width)
    return _Attention(q, k, v, scale * times) if same else None


def _permutation(node: ir.Node) -> list[int]:
    return list(node.attributes.get_ints("perm", [])) if node.op_type == "Transpose" else []


def _scaled(value: ir.Value | None) -> tuple[ir.Value | None, float]:
    """x and s where `value` is x s with one number s for all; else `value` and 1."""
    node = producer(value, "Mul")
    for index in () if node is None else (0, 1):
        assert node is not None
        number = constant(node.inputs[index])
        if number is not None and number.size == 1:
            return node.inputs[1 - index], float(number.item())
    return value, 1.0


def _heads(value: ir.Value | None) -> _Heads | None:
    """What stands head by head in `value`, `[N, heads, tokens, width]`."""
    transpose = producer(value, "Transpose")
    reshape = None if transpose is None else producer(transpose.inputs[0], "Reshape")
    if transpose is None or reshape is None or _permutation(transpose) != BY_HEAD:
        return None
    rows, target = reshape.inputs[0], constant(reshape.inputs[1])
    if rows is None or target is None or target.size != 4 or np.any(target[1:] < 1):
        return None
    tokens, heads, width = (int(size) for size in target[1:])
    return _Heads(rows, tokens, heads, width)


def _fuse(model: ir.Model, node: ir.Node, found: _Attention) -> None:
    tape, name = ir.tape.Tape(), f"{node.outputs[0].name}_attention"
    parts = {"queries": found.queries, "keys": found.keys, "values": found.values}
    rows = [
        _reshaped(tape, part.rows, [-1, part.tokens, part.heads * part.width], f"{name}_{key}")
        for key, part in parts.items()
    ]
    q = found.queries
    attributes = {"num_heads": q.heads, "scale": found.scale}
    result = ir.Value(name=name)
    tape.op("MultiHeadAttention", rows, attributes, domain=CONTRIB, name=name, output=result)
    heads = _reshaped(tape, result, [-1, q.tokens, q.heads, q.width], f"{name}_heads")
    for made in tape.nodes:
        made.metadata_props.update(node.metadata_props)
    splice(model, node, tape, {node.outputs[0]: heads})
    model.graph.opset_imports[CONTRIB] = 1


def _reshaped(tape: ir.tape.Tape, value: ir.Value, shape: list[int], name: str) -> ir.Value:
    target = tape.initializer(ir.tensor(np.array(shape, np.int64), name=f"{name}_shape"))
    return record(tape, "Reshape", [value, target], name)
