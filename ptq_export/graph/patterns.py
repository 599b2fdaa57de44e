"""What a value was made of, read upwards: the small patterns that the rewriting of a graph looks for.

Activations are `[N, C, H, W]`, or `[N, C, H W]` around attention.
"""

import numpy as np
import onnx_ir as ir

from ptq_export.graph.splice import Array

__all__ = [
    "constant",
    "factor",
    "is_scalar",
    "is_vector",
    "producer",
    "repeated",
    "same_image",
    "shifted",
    "sizes",
    "tensor",
    "through_pin",
    "transposed_rows",
    "unflattened",
]

REPEATING = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}


def constant(value: ir.Value | None) -> Array | None:
    """The numbers of a constant; None for what is computed or given."""
    found = tensor(value)
    return None if found is None else found.numpy()


def tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """A constant, its numbers perhaps not read yet; None for what is computed or given."""
    return None if value is None or value.is_graph_input() else ir.convenience.get_const_tensor(value)


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """The node of this type that makes `value`, if one does."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type else None


def sizes(value: ir.Value | None) -> list[object]:
    """The sizes of `value` behind the batch; none where they are unknown."""
    return [] if value is None or value.shape is None else [*value.shape[1:]]


def is_scalar(value: ir.Value | None) -> bool:
    """Whether `value` is a constant of one number."""
    numbers = constant(value)
    return numbers is not None and numbers.size == 1


def is_vector(value: ir.Value | None, beside: ir.Value | None) -> bool:
    """Whether `value` holds one number per channel of `beside`, or one per image and channel."""
    if value is None or value.shape is None or beside is None or beside.shape is None or len(beside.shape) < 3:
        return False
    missing = len(beside.shape) - len(value.shape)
    aligned = [1] * missing + list(value.shape)
    return missing >= 0 and aligned[1] == beside.shape[1] and all(size == 1 for size in aligned[2:])


def same_image(first: ir.Value | None, second: ir.Value | None) -> bool:
    """Whether both are `[N, C, H, W]` of the same sizes."""
    return len(sizes(first)) == 3 and sizes(first) == sizes(second)


def factor(value: ir.Value) -> tuple[ir.Value, Array | None]:
    """x and the vector g where `value` is x g with one constant per channel; else `value` and None."""
    node = producer(value, "Mul")
    for index in () if node is None else (0, 1):
        assert node is not None
        rest, numbers = node.inputs[1 - index], constant(node.inputs[index])
        if rest is not None and numbers is not None and is_vector(node.inputs[index], rest):
            return rest, numbers.reshape(-1)
    return value, None


def shifted(value: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """x and s where `value` is x + s with one number per image and channel; else `value` and None."""
    node = producer(value, "Add")
    for index in () if node is None else (0, 1):
        assert node is not None
        shift, rest = node.inputs[index], node.inputs[1 - index]
        if rest is not None and is_vector(shift, rest) and not is_vector(rest, shift):
            return rest, shift
    return value, None


def repeated(value: ir.Value) -> tuple[ir.Value, tuple[int, int] | None]:
    """x and two numbers where `value` is x with every pixel repeated that often down and across."""
    node = producer(value, "Resize")
    if node is None or node.inputs[0] is None or len(node.inputs) < 3:
        return value, None
    scales, kind = constant(node.inputs[2]), {key: node.attributes.get_string(key) for key in REPEATING}
    if scales is None or scales.size != 4 or kind != REPEATING or np.any(scales != np.rint(scales)):
        return value, None
    images, channels, height, width = (int(scale) for scale in scales)
    return (node.inputs[0], (height, width)) if images == channels == 1 else (value, None)


def through_pin(value: ir.Value | None) -> ir.Value | None:
    """What a Reshape to its own shape was given (`PinLayout`)."""
    node = producer(value, "Reshape")
    unchanged = node is not None and sizes(value) and sizes(node.inputs[0]) == sizes(value)
    return node.inputs[0] if node is not None and unchanged else value


def transposed_rows(value: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """`[N, C, H W]` and a target where `value` is that, transposed to `[N, H W, C]` and reshaped to the target."""
    node = producer(value, "Reshape")
    transpose = None if node is None else producer(node.inputs[0], "Transpose")
    if node is None or transpose is None or transpose.inputs[0] is None or constant(node.inputs[1]) is None:
        return value, None
    swaps = list(transpose.attributes.get_ints("perm", [])) == [0, 2, 1]
    return (transpose.inputs[0], node.inputs[1]) if swaps else (value, None)


def unflattened(value: ir.Value) -> ir.Value:
    """`[N, C, H, W]` where `value` is that with its pixels in one row; else `value`."""
    node = producer(value, "Reshape")
    inner = None if node is None else node.inputs[0]
    if inner is None or len(sizes(inner)) != 3 or len(sizes(value)) != 2:
        return value
    return inner if sizes(inner)[0] == sizes(value)[0] else value
