"""The integer graph as ONNX Runtime's CPU kernels like it best: channels last, and one operator between convolutions.

ONNX Runtime fuses each convolution with its quantisers by itself, but transposes around it, and computes all that lies
between two convolutions, DequantizeLinear to QuantizeLinear, in a dozen passes over memory. Here the convolutions are
written as the channels-last QLinearConv that they become, and what lies between as one operator of our library
(`engines/ort/custom_ops`), which takes the integers of the one and makes those of the next.
"""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptq_export.engines.ort.group_norm import GroupNorm, match_group_norm
from ptq_export.engines.ort.nhwc_values import CONTRIB, OURS, Attribute, Twins
from ptq_export.graph.patterns import (
    constant,
    factor,
    is_scalar,
    producer,
    repeated,
    same_image,
    shifted,
    sizes,
    transposed_rows,
    unflattened,
)

__all__ = ["ChannelsLast"]

UINT8, FLOAT = ir.DataType.UINT8, ir.DataType.FLOAT
GEOMETRY = ("pads", "strides", "dilations", "group")


class ChannelsLast(ir.passes.InPlacePass):
    """Rewrite what can be computed channels-last, from the integer convolutions outwards.

    1. DequantizeLinear, Conv, QuantizeLinear of uint8 activations: one QLinearConv.
    2. From a convolution's codes, or from floats, through a group norm (with a SiLU, with a time embedding added
       before) to QuantizeLinear: one operator. From floats straight to QuantizeLinear: one operator. Pixels are
       repeated, where they are, after that.
    3. A residual addition of a convolution's codes: one operator. Concat and other additions: channels-last; what
       reads a Concat of two takes both instead.
    4. The transposes and reshapes around attention: one reshape.

    Whatever else reads a result gets it channels-first, by a Transpose. A graph without such a convolution stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        nodes = list(model.graph)
        if not any(_match_convolution(node) for node in nodes):
            return ir.passes.PassResult(model, modified=False)
        twins = Twins(model.graph)
        for node in nodes:
            twins.at = node
            twin = _twin(node, twins)
            if twin is not None:
                twins.add(node.outputs[0], twin)
        twins.finish(model)
        return ir.passes.PassResult(model, modified=True)


def _twin(node: ir.Node, twins: Twins) -> ir.Value | None:
    """The channels-last form of a node's result, if it can be computed."""
    match node.op_type:
        case "QuantizeLinear":
            convolution = _match_convolution(node)
            return _quantised(node, twins) if convolution is None else _convolution(convolution, twins)
        case "Add":
            return _sum(node, twins)
        case "Concat":
            return _concat(node, twins)
        case "Reshape":
            return _rows_as_image(node, twins)
    return None


@dataclass(frozen=True)
class _Convolution:
    """The four nodes of an integer convolution: its dequantisers (bias: perhaps), itself, its quantiser."""

    x: ir.Node
    weight: ir.Node
    bias: ir.Node | None
    conv: ir.Node
    quantiser: ir.Node


def _match_convolution(quantiser: ir.Node) -> _Convolution | None:
    conv = producer(quantiser.inputs[0], "Conv") if quantiser.op_type == "QuantizeLinear" else None
    if conv is None or len(sizes(conv.outputs[0])) != 3 or not _is_plain(conv):
        return None
    x, weight, *bias = (producer(value, "DequantizeLinear") for value in conv.inputs)
    if x is None or weight is None or None in bias or constant(weight.inputs[0]) is None or len(weight.inputs) < 3:
        return None
    per_tensor = all(_is_uint8_grid(node) for node in (x, quantiser))
    return _Convolution(x, weight, bias[0] if bias else None, conv, quantiser) if per_tensor else None


def _is_plain(conv: ir.Node) -> bool:
    return conv.attributes.get_string("auto_pad", "NOTSET") == "NOTSET"


def _is_uint8_grid(node: ir.Node) -> bool:
    """Whether a Q or DQ node has one scale and one zero point, and codes of uint8."""
    if len(node.inputs) < 3 or not is_scalar(node.inputs[1]):
        return False
    zero = constant(node.inputs[2])
    return zero is not None and zero.size == 1 and zero.dtype == np.uint8


def _convolution(found: _Convolution, twins: Twins) -> ir.Value:
    codes, numbers = found.x.inputs[0], constant(found.weight.inputs[0])
    assert codes is not None and numbers is not None
    bias = [] if found.bias is None else [found.bias.inputs[0]]
    grids = [*found.x.inputs[1:3], *found.weight.inputs[:3], *found.quantiser.inputs[1:3]]
    name, kernel = found.conv.name or "conv", list(numbers.shape[2:])
    inputs = [twins.last(codes), *grids, *bias]
    result = twins.node("QLinearConv", inputs, name, UINT8, CONTRIB, channels_last=1, kernel_shape=kernel)
    shape = found.quantiser.outputs[0].shape
    result.shape = None if shape is None else ir.Shape([shape[0], *shape[2:], shape[1]])
    node = result.producer()
    assert node is not None
    node.metadata_props.update(found.conv.metadata_props)
    node.attributes.update({key: found.conv.attributes[key] for key in GEOMETRY if key in found.conv.attributes})
    return result


def _quantised(node: ir.Node, twins: Twins) -> ir.Value | None:
    """QuantizeLinear of floats, and whatever of the floats' making goes into the same operator."""
    if not _is_uint8_grid(node):
        return None
    given, scale, zero = node.inputs[0], constant(node.inputs[1]), constant(node.inputs[2])
    if given is None or scale is None or zero is None:
        return None
    rows, target = transposed_rows(given)
    scaled, gain = factor(unflattened(rows))
    small, repeats = repeated(scaled)
    norm = match_group_norm(small)
    source = unflattened(small if norm is None else norm.source)
    if len(sizes(source)) != 3 or not isinstance(channels := sizes(source)[0], int):
        return None
    name = node.outputs[0].name or "codes"
    steps = np.broadcast_to(np.float32(1) if gain is None else gain, channels) / np.squeeze(scale)
    gains = twins.vector(steps, f"{name}_gains")
    if norm is not None:
        codes: ir.Value | None = _normalised(norm, source, gains, int(zero.item()), name, twins)
    else:
        codes = _plain(source, gains, int(zero.item()), name, twins)
    if codes is not None and repeats is not None:
        height, width = repeats
        codes = twins.node("RepeatPixels", [codes], f"{name}_repeated", UINT8, OURS, height=height, width=width)
    if codes is None or target is None:
        return codes
    flat = twins.node("Reshape", [codes, target], f"{name}_flat", UINT8)
    flat.shape = node.outputs[0].shape
    node.outputs[0].replace_all_uses_with(flat)
    return None


def _normalised(
    norm: GroupNorm, source: ir.Value, gains: ir.Value, zero_point: int, name: str, twins: Twins
) -> ir.Value:
    channels = sizes(source)[0]
    assert isinstance(channels, int)
    gamma = norm.gamma or twins.vector(np.ones(channels), f"{name}_gamma")
    beta = norm.beta or twins.vector(np.zeros(channels), f"{name}_beta")
    attributes: dict[str, Attribute] = {
        "zero_point": zero_point,
        "groups": norm.groups,
        "epsilon": norm.epsilon,
        "silu": int(norm.silu),
    }
    unshifted, shift = shifted(source)
    codes = twins.codes(unshifted)
    if codes is None:
        floats, *more = _floats(source, twins)
        inputs = [floats, gamma, beta, gains, *more]
        return twins.node("GroupNormQuantize", inputs, name, UINT8, OURS, **attributes)
    inputs = [*codes, gamma, beta, gains, *([] if shift is None else [shift])]
    return twins.node("DequantizeGroupNormQuantize", inputs, name, UINT8, OURS, **attributes)


def _plain(source: ir.Value, gains: ir.Value, zero_point: int, name: str, twins: Twins) -> ir.Value | None:
    if twins.known(source) is None:
        return None
    floats, *more = _floats(source, twins)
    return twins.node("QuantizeChannels", [floats, gains, *more], name, UINT8, OURS, zero_point=zero_point)


def _floats(source: ir.Value, twins: Twins) -> list[ir.Value]:
    """What an operator reads as floats: two tensors in place of their concatenation, which is not computed then."""
    concat = producer(source, "Concat")
    parts = [] if concat is None or source not in twins else [part for part in concat.inputs if part is not None]
    return [twins.last(part) for part in parts] if len(parts) == 2 else [twins.last(source)]


def _sum(node: ir.Node, twins: Twins) -> ir.Value | None:
    first, second = node.inputs
    if first is None or second is None or not same_image(first, second):
        return None
    name = node.outputs[0].name or "sum"
    a, b = twins.codes(first), twins.codes(second)
    if a is not None and b is not None:
        offsets = [numbers for numbers in (constant(a[2]), constant(b[2])) if numbers is not None]
        offset = twins.vector(np.add.reduce(offsets), f"{name}_offset")
        return twins.node("DequantizeSum", [a[0], a[1], offset, b[0], b[1]], name, FLOAT, OURS)
    if a is not None:
        return twins.node("DequantizeAdd", [*a, twins.last(second)], name, FLOAT, OURS)
    if b is not None:
        return twins.node("DequantizeAdd", [*b, twins.last(first)], name, FLOAT, OURS)
    summands = [twins.known(first), twins.known(second)]
    return None if None in summands else twins.node("Add", summands, name, FLOAT)


def _concat(node: ir.Node, twins: Twins) -> ir.Value | None:
    parts = [value for value in node.inputs if value is not None]
    if node.attributes.get_int("axis", 0) != 1 or any(len(sizes(part)) != 3 for part in parts):
        return None
    if all(twins.known(part) is None for part in parts):
        return None
    name = node.outputs[0].name or "concat"
    return twins.node("Concat", [twins.last(part) for part in parts], name, FLOAT, axis=3)


def _rows_as_image(node: ir.Node, twins: Twins) -> ir.Value | None:
    """`[N, H W, C]`, transposed and reshaped to `[N, C, H, W]`: the twin is the untransposed `[N, H, W, C]`."""
    transpose = producer(node.inputs[0], "Transpose")
    if transpose is None or list(transpose.attributes.get_ints("perm", [])) != [0, 2, 1]:
        return None
    shape = sizes(node.outputs[0])
    if len(shape) != 3 or sizes(transpose.inputs[0])[1:] != shape[:1]:
        return None
    image = [size for size in (*shape[1:], shape[0]) if isinstance(size, int)]
    if len(image) < 3:
        return None
    name = node.outputs[0].name or "image"
    target = twins.constant(np.array([-1, *image], np.int64), f"{name}_target")
    return twins.node("Reshape", [transpose.inputs[0], target], name, FLOAT)
