"""A group norm as the exporter writes it: Reshape, InstanceNormalization, Reshape, Mul, Add, and perhaps a SiLU."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ptq_export.graph.splice import Array

__all__ = ["GroupNorm", "constant", "factor", "match_group_norm", "through_pin"]


@dataclass(frozen=True)
class GroupNorm:
    """f(normalise(source) * gamma + beta), f = SiLU or nothing; channels are axis 1.

    `gamma` and `beta` hold a number per channel, or per image and channel; None: 1 and 0.
    """

    source: ir.Value
    groups: int
    epsilon: float
    gamma: ir.Value | None = None
    beta: ir.Value | None = None
    silu: bool = False


def match_group_norm(value: ir.Value | None) -> GroupNorm | None:
    """The group norm that ends in `value`, if one does."""
    node = None if value is None else value.producer()
    if node is None:
        return None
    if node.op_type == "Mul" and (gate := _of(node, lambda other: other.op_type == "Sigmoid")) is not None:
        sigmoid, argument = gate
        inner = match_group_norm(argument) if sigmoid.inputs[0] is argument else None
        return None if inner is None or inner.silu else replace(inner, silu=True)
    if node.op_type == "Add" and (found := _norm_and_vector(node)) is not None:
        norm, vector = found
        return replace(norm, beta=vector) if norm.beta is None and not norm.silu else None
    if node.op_type == "Mul" and (found := _norm_and_vector(node)) is not None:
        norm, vector = found
        return replace(norm, gamma=vector) if norm.gamma is None and norm.beta is None and not norm.silu else None
    return _bare(node)


def factor(value: ir.Value) -> tuple[ir.Value, Array | None]:
    """x and the vector g where `value` is x * g with one constant per channel (axis 1); else `value` and None."""
    node = value.producer()
    if node is not None and node.op_type == "Mul":
        for index, other in enumerate(node.inputs):
            rest, numbers = node.inputs[1 - index], constant(other)
            if rest is not None and numbers is not None and _is_vector(other, rest):
                return rest, numbers.reshape(-1)
    return value, None


def constant(value: ir.Value | None) -> Array | None:
    """The numbers of a constant; None for what is computed or given."""
    tensor = None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def through_pin(value: ir.Value | None) -> ir.Value | None:
    """What a Reshape to its own shape was given (`PinLayout`)."""
    node = None if value is None else value.producer()
    if node is None or node.op_type != "Reshape" or node.inputs[0] is None:
        return value
    inner = node.inputs[0]
    return inner if value is not None and _sizes(value) == _sizes(inner) else value


def _sizes(value: ir.Value) -> list[object]:
    """The sizes behind the batch."""
    return [] if value.shape is None else list(value.shape)[1:]


def _of(node: ir.Node, wanted: Callable[[ir.Node], bool]) -> tuple[ir.Node, ir.Value | None] | None:
    """The operand of a binary node that a wanted node makes, and the other operand."""
    for index, operand in enumerate(node.inputs):
        producer = None if operand is None else operand.producer()
        if producer is not None and wanted(producer):
            return producer, node.inputs[1 - index]
    return None


def _norm_and_vector(node: ir.Node) -> tuple[GroupNorm, ir.Value] | None:
    for index, operand in enumerate(node.inputs):
        norm, vector = match_group_norm(operand), node.inputs[1 - index]
        if norm is not None and vector is not None and operand is not None and _is_vector(vector, operand):
            return norm, vector
    return None


def _is_vector(value: ir.Value | None, beside: ir.Value) -> bool:
    """Whether `value` holds one number per channel of `beside` `[N, C, ...]`, or per image and channel."""
    if value is None or value.shape is None or beside.shape is None or len(beside.shape) < 3:
        return False
    rank, sizes = len(beside.shape), list(value.shape)
    aligned = [1] * (rank - len(sizes)) + sizes
    return len(sizes) <= rank and aligned[1] == beside.shape[1] and all(size == 1 for size in aligned[2:])


def _bare(node: ir.Node) -> GroupNorm | None:
    """Reshape to `[N, groups, -1]`, InstanceNormalization without an affine of its own, and Reshape back."""
    nodes = list(_chain(node, ("Reshape", "InstanceNormalization", "Reshape")))
    if len(nodes) < 3:
        return None
    back, norm, apart = nodes
    source, scale, bias = apart.inputs[0], constant(norm.inputs[1]), constant(norm.inputs[2])
    if source is None or scale is None or bias is None or _sizes(source) != _sizes(back.outputs[0]):
        return None
    if not np.all(scale == 1) or np.any(bias):
        return None
    return GroupNorm(source, len(scale), norm.attributes.get_float("epsilon", 1e-5))


def _chain(node: ir.Node | None, op_types: tuple[str, ...]) -> Iterator[ir.Node]:
    """Nodes of these types, each fed by the next, from `node` upwards."""
    for op_type in op_types:
        if node is None or node.op_type != op_type:
            return
        yield node
        node = None if node.inputs[0] is None else node.inputs[0].producer()
