"""The integer graph as ONNX Runtime's CPU kernels like it best: channels last, and nothing but fused operators between.

ONNX Runtime fuses each convolution with its quantisers by itself, but transposes around it and computes all that lies
between two convolutions, DequantizeLinear to QuantizeLinear, in a dozen passes over memory. Here the convolutions are
written as the channels-last QLinearConv that they become, and what lies between as one operator of our library
(`engines/channels_last`), whose integers go straight into the next one.
"""

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ptq_export.graph.group_norm import GroupNorm, constant, factor, match_group_norm, through_pin
from ptq_export.graph.splice import Array

__all__ = ["ChannelsLast"]

Attribute: TypeAlias = int | float | Sequence[int]

OURS, CONTRIB = "ptq_export", "com.microsoft"
REPEATING = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
LAST, FIRST = (0, 2, 3, 1), (0, 3, 1, 2)


class ChannelsLast(ir.passes.InPlacePass):
    """Rewrite what can be computed channels-last, from the integer convolutions outwards.

    1. DequantizeLinear, Conv, QuantizeLinear: one QLinearConv.
    2. From a convolution's codes or floats through a group norm (with a SiLU, with a time embedding added before) to
       QuantizeLinear: one operator. From floats to QuantizeLinear: one operator, before an upsampling if there is one.
    3. A residual addition of a convolution's codes: one operator. Concat, Add and upsampling: channels-last.
    4. The reshapes and transposes around attention become one reshape.

    Whatever else reads a result gets it channels-first, by a Transpose.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        if not any(node.op_type == "QuantizeLinear" for node in model.graph):
            return ir.passes.PassResult(model, modified=False)
        rewriting = _Rewriting(model)
        for node in list(model.graph):
            rewriting.visit(node)
        return ir.passes.PassResult(model, modified=rewriting.finish())


class _Rewriting:
    """`twins` holds the channels-last form of each value `[N, C, H, W]` that has one."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model
        self.twins: dict[ir.Value, ir.Value] = {}
        self.computed: list[ir.Value] = []
        self.at: ir.Node | None = None
        self.done = 0

    def visit(self, node: ir.Node) -> None:
        """Give a node's result its twin where this pass knows how."""
        self.at = node
        result = node.outputs[0]
        twin: ir.Value | None = None
        if node.op_type == "QuantizeLinear":
            twin = self._convolution(node) or self._quantised(node)
        elif node.op_type == "Add":
            twin = self._sum(node)
        elif node.op_type == "Concat":
            twin = self._concat(node)
        elif node.op_type == "Reshape":
            twin = self._unflattened(node)
        if twin is not None:
            self._register(result, twin)

    def finish(self) -> bool:
        """Let everything else read channels-first forms of the twins; drop what nothing reads any more."""
        for value in self.computed:
            if value.uses() or value.is_graph_output():
                self._replace(value, self._transpose(self.twins[value], FIRST, f"{value.name}_first"))
        if self.done:
            self.model.graph.opset_imports.update({OURS: 1, CONTRIB: 1})
            RemoveUnusedNodesPass()(self.model)
        return self.done > 0

    def _register(self, value: ir.Value, twin: ir.Value) -> None:
        self.twins[value] = twin
        self.computed.append(value)
        self.done += 1

    def _replace(self, old: ir.Value, new: ir.Value) -> None:
        new.type, new.shape = old.type, old.shape
        new_name = new.name
        if old.is_graph_output():
            old.name, new.name = f"{old.name}_old", old.name
        users = [use for use in old.uses() if use.node is not new.producer()]
        for use in users:
            use.node.replace_input_with(use.idx, new)
        del new_name
        for index, output in enumerate(self.model.graph.outputs):
            if output is old:
                self.model.graph.outputs[index] = new

    # Nodes and constants

    def _emit(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        dtype: ir.DataType,
        domain: str = "",
        **attributes: Attribute,
    ) -> ir.Value:
        assert self.at is not None
        node = ir.node(op_type, inputs, attributes, domain=domain, name=name)
        node.metadata_props.update(self.at.metadata_props)
        node.outputs[0].name, node.outputs[0].type = f"{name}_last", ir.TensorType(dtype)
        self.model.graph.insert_before(self.at, node)
        return node.outputs[0]

    def _constant(self, numbers: Array, name: str) -> ir.Value:
        value = ir.Value(name=name, const_value=ir.tensor(numbers, name=name))
        value.shape, value.type = ir.Shape(numbers.shape), ir.TensorType(ir.DataType.from_numpy(numbers.dtype))
        self.model.graph.register_initializer(value)
        return value

    def _vector(self, numbers: Array, name: str) -> ir.Value:
        return self._constant(np.ascontiguousarray(numbers, np.float32), name)

    def _transpose(self, value: ir.Value, permutation: Sequence[int], name: str) -> ir.Value:
        node = ir.node("Transpose", [value], {"perm": list(permutation)}, name=name)
        node.outputs[0].name = name
        node.outputs[0].type = value.type
        producer = value.producer()
        if producer is None:
            self.model.graph.insert_before(self.model.graph[0], node)
        else:
            self.model.graph.insert_after(producer, node)
        return node.outputs[0]

    # Values

    def _known(self, value: ir.Value | None) -> ir.Value | None:
        """The twin that `value` has without a transpose: its own, or a dequantised one."""
        value = through_pin(value)
        if value is None:
            return None
        if value not in self.twins and (codes := self._codes(value)) is not None:
            twin, gain, offset = codes
            name = f"{value.name}_dequantised"
            new = self._emit("DequantizeChannels", [twin, gain, offset], name, ir.DataType.FLOAT, OURS)
            self._register(value, new)
        return self.twins.get(value)

    def _last(self, value: ir.Value) -> ir.Value:
        """The twin of `value`, by a transpose if need be."""
        known = self._known(value)
        if known is None:
            known = self.twins[value] = self._transpose(value, LAST, f"{value.name}_last")
        return known

    def _codes(self, value: ir.Value | None) -> tuple[ir.Value, ir.Value, ir.Value] | None:
        """The channels-last codes that `value` dequantises, and gain and offset per channel."""
        value = through_pin(value)
        node = None if value is None else value.producer()
        if node is None or node.op_type != "DequantizeLinear" or node.inputs[0] not in self.twins:
            return None
        codes, scale = node.inputs[0], constant(node.inputs[1])
        zero = constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1)
        if codes is None or codes.shape is None or scale is None or zero is None:
            return None
        channels = codes.shape[1]
        assert isinstance(channels, int)
        gain = np.broadcast_to(scale.reshape(-1), channels)
        offset = np.broadcast_to(-zero.reshape(-1).astype(np.float64), channels) * gain
        name = f"{node.outputs[0].name}"
        known = self.model.graph.initializers
        if f"{name}_gain" in known:
            return self.twins[codes], known[f"{name}_gain"], known[f"{name}_offset"]
        return self.twins[codes], self._vector(gain, f"{name}_gain"), self._vector(offset, f"{name}_offset")

    # What is rewritten

    def _convolution(self, node: ir.Node) -> ir.Value | None:
        conv = None if node.inputs[0] is None else node.inputs[0].producer()
        if conv is None or conv.op_type != "Conv" or not _is_scalar(node.inputs[1]):
            return None
        x, w, *bias = (None if value is None else value.producer() for value in conv.inputs)
        if not all(part is not None and part.op_type == "DequantizeLinear" for part in (x, w, *bias)):
            return None
        assert x is not None and w is not None and x.inputs[0] is not None
        if not _is_scalar(x.inputs[1]) or conv.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
            return None
        if conv.outputs[0].shape is None or len(conv.outputs[0].shape) != 4 or len(w.inputs) < 3:
            return None
        codes = [part.inputs[0] for part in bias if part is not None]
        inputs = [self._last(x.inputs[0]), *x.inputs[1:3], *w.inputs[:3], *node.inputs[1:3], *codes]
        kept = {key: conv.attributes[key] for key in ("pads", "strides", "dilations", "group") if key in conv.attributes}
        shape = constant(w.inputs[0])
        assert shape is not None
        kernel = list(shape.shape[2:])
        value = self._emit(
            "QLinearConv", inputs, conv.name or "conv", ir.DataType.UINT8, CONTRIB, channels_last=1, kernel_shape=kernel
        )
        producer = value.producer()
        assert producer is not None
        producer.attributes.update(kept)
        producer.metadata_props.update(conv.metadata_props)
        return value

    def _quantised(self, node: ir.Node) -> ir.Value | None:
        scale, zero = constant(node.inputs[1]), constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if node.inputs[0] is None or scale is None or scale.size != 1 or zero is None or zero.dtype != np.uint8:
            return None
        value, flat = _through_flattening(node.inputs[0])
        value, gain = factor(value)
        value, repeats = _through_upsampling(value)
        norm = match_group_norm(value)
        source = value if norm is None else norm.source
        if source.shape is None or len(source.shape) not in (3, 4):
            return None
        channels = source.shape[1]
        if not isinstance(channels, int):
            return None
        vector = np.broadcast_to(np.float32(1) if gain is None else gain, channels) / scale.reshape(())
        name = f"{node.outputs[0].name}"
        new_gain = self._vector(vector, f"{name}_gain")
        attributes: dict[str, Attribute] = {"zero_point": int(zero.reshape(()))}
        if norm is not None:
            new = self._normalised(norm, new_gain, attributes, name)
        else:
            new = self._plain(source, new_gain, attributes, name)
        if new is not None and repeats is not None:
            height, width = repeats
            repeated = f"{name}_repeated"
            new = self._emit("RepeatPixels", [new], repeated, ir.DataType.UINT8, OURS, height=height, width=width)
        if new is None or flat is None:
            return new
        reshaped = self._emit("Reshape", [new, flat], f"{name}_flat", ir.DataType.UINT8)
        self._replace(node.outputs[0], reshaped)
        self.done += 1
        return None

    def _normalised(
        self,
        norm: GroupNorm,
        gain: ir.Value,
        attributes: dict[str, Attribute],
        name: str,
    ) -> ir.Value | None:
        source = _image(norm.source)
        if source.shape is None or len(source.shape) != 4:
            return None
        channels = source.shape[1]
        assert isinstance(channels, int)
        gamma = norm.gamma or self._vector(np.ones(channels), f"{name}_gamma")
        beta = norm.beta or self._vector(np.zeros(channels), f"{name}_beta")
        attributes |= {"groups": norm.groups, "epsilon": norm.epsilon, "silu": int(norm.silu)}
        summand, shift = _shifted(source)
        codes = self._codes(summand)
        if codes is not None and (shift is not None or summand is source):
            twin, x_gain, x_offset = codes
            inputs = [twin, x_gain, x_offset, gamma, beta, gain, *([] if shift is None else [shift])]
            return self._emit("DequantizeGroupNormQuantize", inputs, name, ir.DataType.UINT8, OURS, **attributes)
        inputs = [self._last(source), gamma, beta, gain]
        return self._emit("GroupNormQuantize", inputs, name, ir.DataType.UINT8, OURS, **attributes)

    def _plain(
        self, source: ir.Value, gain: ir.Value, attributes: dict[str, Attribute], name: str
    ) -> ir.Value | None:
        twin = self._known(source) if len(source.shape or ()) == 4 else None
        if twin is None:
            return None
        return self._emit("QuantizeChannels", [twin, gain], name, ir.DataType.UINT8, OURS, **attributes)

    def _sum(self, node: ir.Node) -> ir.Value | None:
        first, second = node.inputs
        if first is None or second is None or not _same_image(first, second):
            return None
        name = node.outputs[0].name or "sum"
        a, b = self._codes(first), self._codes(second)
        if a is not None and b is not None:
            both_offsets = constant(a[2]), constant(b[2])
            assert both_offsets[0] is not None and both_offsets[1] is not None
            offset = self._vector(both_offsets[0] + both_offsets[1], f"{name}_offset")
            return self._emit("DequantizeSum", [a[0], a[1], offset, b[0], b[1]], name, ir.DataType.FLOAT, OURS)
        if a is not None or b is not None:
            codes, other = (a, second) if a is not None else (b, first)
            assert codes is not None
            return self._emit("DequantizeAdd", [*codes, self._last(other)], name, ir.DataType.FLOAT, OURS)
        twins = self._known(first), self._known(second)
        return None if None in twins else self._emit("Add", twins, name, ir.DataType.FLOAT)

    def _concat(self, node: ir.Node) -> ir.Value | None:
        parts = [value for value in node.inputs if value is not None]
        if node.attributes.get_int("axis", 0) != 1 or any(value.shape is None or len(value.shape) != 4 for value in parts):
            return None
        if not any(self._known(value) is not None for value in parts):
            return None
        name = node.outputs[0].name or "concat"
        return self._emit("Concat", [self._last(value) for value in parts], name, ir.DataType.FLOAT, axis=3)

    def _unflattened(self, node: ir.Node) -> ir.Value | None:
        """`[N, H W, C]`, transposed and reshaped to `[N, C, H, W]`: its twin is the untransposed `[N, H, W, C]`."""
        shape, rows = node.outputs[0].shape, None if node.inputs[0] is None else node.inputs[0].producer()
        if shape is None or len(shape) != 4 or rows is None or rows.op_type != "Transpose":
            return None
        if list(rows.attributes.get_ints("perm", [])) != [0, 2, 1] or rows.inputs[0] is None:
            return None
        sizes = [shape[2], shape[3], shape[1]]
        if not all(isinstance(size, int) for size in sizes):
            return None
        name = node.outputs[0].name or "image"
        target = self._constant(np.array([-1, *sizes], np.int64), f"{name}_shape")
        return self._emit("Reshape", [rows.inputs[0], target], name, ir.DataType.FLOAT)


def _is_scalar(value: ir.Value | None) -> bool:
    numbers = constant(value)
    return numbers is not None and numbers.size == 1


def _through_flattening(value: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """`[N, C, H W]` and the shape, where `value` is that transposed to `[N, H W, C]` and perhaps reshaped."""
    node, shape = value.producer(), None
    if node is not None and node.op_type == "Reshape" and constant(node.inputs[1]) is not None:
        shape = node.inputs[1]
        node = None if node.inputs[0] is None else node.inputs[0].producer()
    if node is None or node.op_type != "Transpose" or list(node.attributes.get_ints("perm", [])) != [0, 2, 1]:
        return value, None
    inner = node.inputs[0]
    return (value, None) if inner is None or shape is None else (inner, shape)


def _image(value: ir.Value) -> ir.Value:
    """`[N, C, H, W]` where `value` is that with its pixels in one row."""
    node = value.producer()
    inner = None if node is None or node.op_type != "Reshape" else node.inputs[0]
    if inner is None or inner.shape is None or value.shape is None:
        return value
    flattened = len(value.shape) == 3 and len(inner.shape) == 4 and inner.shape[1] == value.shape[1]
    return inner if flattened else value


def _shifted(value: ir.Value) -> tuple[ir.Value, ir.Value | None]:
    """x and s where `value` is x + s with one number per image and channel."""
    node = value.producer()
    if node is not None and node.op_type == "Add":
        for index, shift in enumerate(node.inputs):
            other = node.inputs[1 - index]
            if shift is None or other is None or shift.shape is None or other.shape is None:
                continue
            if len(shift.shape) == 4 and list(shift.shape[2:]) == [1, 1] and list(other.shape[2:]) != [1, 1]:
                return other, shift
    return value, None


def _same_image(first: ir.Value, second: ir.Value) -> bool:
    if first.shape is None or second.shape is None or len(first.shape) != 4 or len(second.shape) != 4:
        return False
    return list(first.shape[1:]) == list(second.shape[1:])


def _through_upsampling(value: ir.Value) -> tuple[ir.Value, tuple[int, int] | None]:
    """x, and how often, where `value` is x with every pixel repeated down and across."""
    node = value.producer()
    if node is None or node.op_type != "Resize" or len(node.inputs) < 3 or node.inputs[0] is None:
        return value, None
    scales = constant(node.inputs[2])
    texts = {key: node.attributes.get_string(key) for key in REPEATING}
    if scales is None or scales.size != 4 or texts != REPEATING or np.any(scales != np.rint(scales)):
        return value, None
    n, c, height, width = (int(scale) for scale in scales)
    return (node.inputs[0], (height, width)) if n == c == 1 else (value, None)
