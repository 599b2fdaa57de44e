"""A group norm as the exporter writes it: Reshape, InstanceNormalization, Reshape, Mul, Add, and perhaps a SiLU."""

from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ptq_export.graph.patterns import constant, is_vector, producer, sizes

__all__ = ["GroupNorm", "match_group_norm"]


@dataclass(frozen=True)
class GroupNorm:
    """f(normalise(source) * gamma + beta), f = SiLU or nothing.

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
    argument = _silu_argument(value)
    norm = _with_beta(argument or value)
    return norm if norm is None or argument is None else replace(norm, silu=True)


def _silu_argument(value: ir.Value | None) -> ir.Value | None:
    """x where `value` is x * sigmoid(x)."""
    node = producer(value, "Mul")
    for index in () if node is None else (0, 1):
        assert node is not None
        sigmoid = producer(node.inputs[index], "Sigmoid")
        if sigmoid is not None and sigmoid.inputs[0] is node.inputs[1 - index]:
            return sigmoid.inputs[0]
    return None


def _with_beta(value: ir.Value | None) -> GroupNorm | None:
    node = producer(value, "Add")
    for index in () if node is None else (0, 1):
        assert node is not None
        norm = _with_gamma(node.inputs[1 - index])
        if norm is not None and is_vector(node.inputs[index], node.inputs[1 - index]):
            return replace(norm, beta=node.inputs[index])
    return _with_gamma(value)


def _with_gamma(value: ir.Value | None) -> GroupNorm | None:
    node = producer(value, "Mul")
    for index in () if node is None else (0, 1):
        assert node is not None
        norm = _bare(node.inputs[1 - index])
        if norm is not None and is_vector(node.inputs[index], node.inputs[1 - index]):
            return replace(norm, gamma=node.inputs[index])
    return _bare(value)


def _bare(value: ir.Value | None) -> GroupNorm | None:
    """Reshape to `[N, groups, -1]`, InstanceNormalization without an affine of its own, and Reshape back."""
    back = producer(value, "Reshape")
    norm = None if back is None else producer(back.inputs[0], "InstanceNormalization")
    apart = None if norm is None else producer(norm.inputs[0], "Reshape")
    source = None if apart is None else apart.inputs[0]
    if norm is None or source is None or not sizes(source) or sizes(source) != sizes(value):
        return None
    scale, bias = constant(norm.inputs[1]), constant(norm.inputs[2])
    if scale is None or bias is None or not np.all(scale == 1) or np.any(bias):
        return None
    return GroupNorm(source, len(scale), norm.attributes.get_float("epsilon", 1e-5))
