"""Nets of one of our operators, and what it computes, in numpy and in double precision."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

__all__ = ["CONSTANTS", "FLOAT_RESULT", "exact", "run", "sums_of_products"]

Array = NDArray[Any]
FLOAT_RESULT = ("DequantizeChannels", "DequantizeAdd", "DequantizeSum")
CONSTANTS = ("WinogradConv",)
"""Operators of which all inputs but the first are constants of the graph."""


def run(
    library: Path, op: str, inputs: Mapping[str, Array | None], attributes: Mapping[str, Any], threads: int = 2
) -> Array:
    """The operator's result; an input that is None is left out."""
    given = {name: value for name, value in inputs.items() if value is not None}
    names = [name if name in given else "" for name in inputs]
    node = helper.make_node(op, names, ["y"], domain="ptq_export", **attributes)
    constants = dict(list(given.items())[1:]) if op in CONSTANTS else {}
    given = {name: value for name, value in given.items() if name not in constants}
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    values = [helper.make_tensor_value_info(name, _type(value.dtype), None) for name, value in given.items()]
    result = helper.make_tensor_value_info("y", _type(np.dtype("f4" if op in FLOAT_RESULT else "u1")), None)
    graph = helper.make_graph([node], "net", values, [result], initializers)
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ptq_export", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    settings = onnxruntime.SessionOptions()
    settings.register_custom_ops_library(str(library))
    settings.intra_op_num_threads, settings.log_severity_level = threads, 4
    settings.enable_cpu_mem_arena = False
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    found: Array = session.run(None, given)[0]
    return found


def exact(op: str, inputs: Mapping[str, Array | None], attributes: Mapping[str, Any]) -> Array:
    """The result in double precision; codes before they are rounded and clamped."""
    x, *vectors = (None if value is None else value.astype(np.float64) for value in inputs.values())
    assert x is not None
    match op, vectors:
        case "GroupNormQuantize", [gamma, beta, gain, *more]:
            x = _joined(x, more)
            return _normalised(x, gamma, beta, attributes) * gain.reshape(-1) + attributes["zero_point"]
        case "DequantizeGroupNormQuantize", [x_gain, x_offset, gamma, beta, gain, *shift]:
            numbers = x * _spread(x_gain, x) + _spread(x_offset, x)
            for each in shift:
                numbers += 0 if each is None else _spread(each, x)
            return _normalised(numbers, gamma, beta, attributes) * gain.reshape(-1) + attributes["zero_point"]
        case "QuantizeChannels", [gain, *more]:
            return _joined(x, more) * gain.reshape(-1) + attributes["zero_point"]
        case "RepeatPixels", []:
            return x.repeat(attributes["height"], 1).repeat(attributes["width"], 2)
        case "DequantizeChannels", [gain, offset]:
            return x * gain.reshape(-1) + offset.reshape(-1)
        case "DequantizeAdd", [gain, offset, summand]:
            return x * gain.reshape(-1) + offset.reshape(-1) + summand
        case "DequantizeSum", [gain, offset, summand, summand_gain]:
            return x * gain.reshape(-1) + offset.reshape(-1) + summand * summand_gain.reshape(-1)
        case "WinogradConv", [x_scale, x_zero, weight, scales, _zeros, y_scale, y_zero, bias]:
            sums = sums_of_products(x - x_zero, weight, attributes["pads"]) + (0 if bias is None else bias)
            return sums * (x_scale * scales / y_scale) + y_zero
    raise AssertionError(f"{op} of {len(inputs)} inputs")


def sums_of_products(x: Array, weight: Array, pads: list[int]) -> Array:
    """The 3 x 3 convolution of x `[N, H, W, C]` with `[K, C, 3, 3]`, zeros around it: exact below 2^53."""
    top, left, bottom, right = pads
    padded = np.pad(x.astype(np.float64), ((0, 0), (top, bottom), (left, right), (0, 0)))
    height, width = padded.shape[1] - 2, padded.shape[2] - 2
    taps = ((row, column) for row in range(3) for column in range(3))
    parts = (padded[:, r : r + height, c : c + width] @ weight[:, :, r, c].T.astype(np.float64) for r, c in taps)
    return np.add.reduce(list(parts))


def _joined(x: Array, more: list[Array | None]) -> Array:
    """All channels: those of x, and more where they are given."""
    return np.concatenate([x, *(each for each in more if each is not None)], axis=-1)


def _normalised(x: Array, gamma: Array, beta: Array, attributes: Mapping[str, Any]) -> Array:
    groups = attributes["groups"]
    apart = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean, variance = apart.mean((1, 3), keepdims=True), apart.var((1, 3), keepdims=True)
    normed = ((apart - mean) / np.sqrt(variance + attributes["epsilon"])).reshape(x.shape)
    y = normed * _spread(gamma, x) + _spread(beta, x)
    return y / (1 + np.exp(-y)) if attributes["silu"] else y


def _spread(vector: Array, x: Array) -> Array:
    """A number per channel, or per image and channel, against `[N, ..., C]`."""
    if vector.size == x.shape[-1]:
        return vector.reshape(-1)
    return vector.reshape(len(x), *[1] * (x.ndim - 2), -1)


def _type(dtype: np.dtype[Any]) -> int:
    return helper.np_dtype_to_tensor_dtype(dtype)
