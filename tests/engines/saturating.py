"""Layers of integers, made so that 16-bit sums of two products would overflow, as the graphs that engines are built of.

All scales are 1 and an output's true sum of products is known: an engine that adds in 16 bits shows."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from ptq_export.engines.ort.nhwc_values import CONTRIB

__all__ = ["Layer", "wrong_in_openvino", "wrong_in_ort"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """A convolution of `[1, cin, size, size]`; `kernel` 0: a linear layer of `size` rows."""

    kernel: int
    cin: int
    size: int
    groups: int = 1
    stride: int = 1

    def __str__(self) -> str:
        kind = f"{self.kernel}x{self.kernel}" if self.kernel else "linear"
        return f"{kind} of {self.cin} on {self.size}, {self.groups} groups, stride {self.stride}"

    @property
    def outputs(self) -> int:
        return self.cin if self.groups == self.cin else 24

    @property
    def length(self) -> int:
        """The products in one sum."""
        return max(self.kernel, 1) ** 2 * self.cin // self.groups

    def sample(self) -> Array:
        """Codes `[1, cin, size, size]` or `[size, cin]`, the same at all pixels, most of them 255."""
        rng = np.random.default_rng(1)
        pixel = np.where(rng.random(self.cin) < 0.8, 255, rng.integers(0, 256, self.cin)).astype(np.uint8)
        shape = (1, self.size, self.size, self.cin) if self.kernel else (self.size, self.cin)
        spread = np.broadcast_to(pixel, shape)
        return np.ascontiguousarray(spread.transpose(0, 3, 1, 2) if self.kernel else spread)

    def weight(self, codes: Array) -> Array:
        """`[O, length]` in the order [kh, kw, cin] as the weight `[O, cin, kh, kw]` or `[O, cin]`."""
        if not self.kernel:
            return codes
        apart = codes.reshape(self.outputs, self.kernel, self.kernel, -1)
        return np.ascontiguousarray(apart.transpose(0, 3, 1, 2))

    def sums(self, codes: Array) -> Array:
        """The true sums `[O]` of products, int32."""
        pixel = self.sample().reshape(self.cin, -1)[:, 0] if self.kernel else self.sample()[0]
        taps = np.tile(pixel.reshape(self.groups, -1), max(self.kernel, 1) ** 2).astype(np.int64)
        group = np.arange(self.outputs) * self.groups // self.outputs
        return (codes.astype(np.int64) * taps[group]).sum(1).astype(np.int32)

    def geometry(self) -> dict[str, Any]:
        return {"strides": [self.stride] * 2, "group": self.groups, "kernel_shape": [self.kernel] * 2}


def wrong_in_ort(layer: Layer, codes: Array, channels_last: bool = False) -> int:
    """How many outputs of ONNX Runtime are not the zero point, 128: the bias is minus the sum of products."""
    sample, bias = layer.sample(), -layer.sums(codes)
    if channels_last:
        sample = np.ascontiguousarray(sample.transpose(0, 2, 3, 1))
    nodes = [_channels_last(layer)] if channels_last else _quantised(layer)
    constants = {"codes": layer.weight(codes), "bias": bias, "middle": np.uint8(128)}
    model = _model(nodes, constants, sample.shape, TensorProto.UINT8, layer.outputs)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return int((session.run(None, {"sample": sample})[0] != 128).sum())


def wrong_in_openvino(layer: Layer, codes: Array) -> int:
    """How many outputs of OpenVINO are not the sum of products."""
    import openvino

    sample, sums = layer.sample().astype(np.float32), layer.sums(codes).astype(np.float32)
    operator = (
        helper.make_node("Conv", ["x", "w"], ["y"], **layer.geometry())
        if layer.kernel
        else helper.make_node("MatMul", ["x", "w"], ["y"])
    )
    nodes = [
        helper.make_node("QuantizeLinear", ["sample", "one", "zero_point"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "zero_point"], ["x"]),
        helper.make_node("DequantizeLinear", ["codes", "ones"], ["w"], axis=0 if layer.kernel else 1),
        operator,
    ]
    weight = layer.weight(codes)
    constants = {"codes": weight if layer.kernel else np.ascontiguousarray(weight.T)}
    model = _model(nodes, constants, sample.shape, TensorProto.FLOAT, layer.outputs)
    core = openvino.Core()
    engine = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return int((engine([sample])[0] != (sums[:, None, None] if layer.kernel else sums)).sum())


def _quantised(layer: Layer) -> list[NodeProto]:
    operator = (
        helper.make_node("Conv", ["x", "w", "b"], ["f"], **layer.geometry())
        if layer.kernel
        else helper.make_node("Gemm", ["x", "w", "b"], ["f"], transB=1)
    )
    return [
        helper.make_node("DequantizeLinear", ["sample", "one", "zero_point"], ["x"]),
        helper.make_node("DequantizeLinear", ["codes", "ones", "zero_points"], ["w"], axis=0),
        helper.make_node("DequantizeLinear", ["bias", "ones"], ["b"], axis=0),
        operator,
        helper.make_node("QuantizeLinear", ["f", "one", "middle"], ["y"]),
    ]


def _channels_last(layer: Layer) -> NodeProto:
    inputs = ["sample", "one", "zero_point", "codes", "ones", "zero_points", "one", "middle", "bias"]
    return helper.make_node("QLinearConv", inputs, ["y"], domain=CONTRIB, channels_last=1, **layer.geometry())


def _model(nodes: list[NodeProto], own: dict[str, Any], shape: tuple[int, ...], kind: int, outputs: int) -> bytes:
    shared = {"one": np.float32(1), "ones": np.ones(outputs, np.float32), "zero_point": np.uint8(0)}
    constants = {**shared, "zero_points": np.zeros(outputs, np.int8), **own}
    read = {name for node in nodes for name in node.input}
    initializers = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in read
    ]
    given, result = helper.make_tensor_value_info("sample", kind, shape), helper.make_tensor_value_info("y", kind, None)
    graph = helper.make_graph(nodes, "layer", [given], [result], initializers)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid(CONTRIB, 1)]
    return bytes(helper.make_model(graph, opset_imports=imports, ir_version=10).SerializeToString())
