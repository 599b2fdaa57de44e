"""Our operators of ONNX Runtime compute what numpy computes, for odd shapes, several images and threads."""

from collections.abc import Mapping

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from ptq_export.engines.ort_operators import library, library_version, register

pytestmark = pytest.mark.skipif(library() is None, reason="the operators were not compiled: no C++ compiler")

TYPES = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8}
SHAPES = [(1, 4, 4, 8), (3, 5, 7, 12), (2, 1, 1, 20), (1, 70, 33, 64), (2, 300, 40)]
"""Channels that fill no vector, one pixel, more pixels than one task takes, and rows of tokens."""
RNG = np.random.default_rng(0)


def run(op: str, inputs: Mapping[str, NDArray], threads: int = 2, **attributes: float) -> NDArray:
    kind = TensorProto.UINT8 if op.endswith("Quantize") or op in ("QuantizeChannels", "RepeatPixels") else 1
    node = helper.make_node(op, list(inputs), ["y"], domain="ptq_export", **attributes)
    values = [helper.make_tensor_value_info(name, TYPES[value.dtype], None) for name, value in inputs.items()]
    graph = helper.make_graph([node], "net", values, [helper.make_tensor_value_info("y", kind, None)])
    imports = [helper.make_opsetid("", 18), helper.make_opsetid("ptq_export", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=10)
    settings = register(onnxruntime.SessionOptions())
    settings.intra_op_num_threads = threads
    settings.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    result: NDArray = session.run(None, dict(inputs))[0]
    return result


def numbers(*shape: int) -> NDArray:
    return RNG.standard_normal(shape).astype(np.float32)


def codes(*shape: int) -> NDArray:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def positive(*shape: int) -> NDArray:
    return RNG.uniform(0.01, 0.05, shape).astype(np.float32)


def silu(x: NDArray) -> NDArray:
    result: NDArray = x / (1 + np.exp(-x))
    return result


def group_norm(x: NDArray, groups: int, epsilon: float) -> NDArray:
    apart = x.reshape(len(x), -1, groups, x.shape[-1] // groups)
    mean, variance = apart.mean((1, 3), keepdims=True), apart.var((1, 3), keepdims=True)
    result: NDArray = ((apart - mean) / np.sqrt(variance + epsilon)).reshape(x.shape)
    return result


def spread(vector: NDArray, x: NDArray) -> NDArray:
    """`[C]` or `[N, C]`, to be broadcast against `[N, ..., C]`."""
    return vector if vector.ndim == 1 else vector.reshape(len(x), *[1] * (x.ndim - 2), -1)


def agree(found: NDArray, exact: NDArray) -> None:
    """Codes are those of `exact` rounded, but for numbers next to the middle between two."""
    wanted = np.clip(np.rint(exact), 0, 255)
    assert found.dtype == np.uint8 and found.shape == exact.shape
    off = np.abs(found - wanted)
    assert off.max() <= 1
    assert np.all(np.abs(exact - np.floor(exact) - 0.5)[off > 0] < 1e-3)
    assert len(np.unique(wanted)) > 8, "the test says something"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize("per_image", [False, True])
def test_group_norm_of_floats(shape: tuple[int, ...], activation: int, per_image: bool) -> None:
    x, channels = 3 * numbers(*shape) + 5, shape[-1]
    vectors = (shape[0], channels) if per_image else (channels,)
    gamma, beta, gain = numbers(*vectors), numbers(*vectors), 20 + 10 * numbers(channels)
    inputs = {"x": x, "gamma": gamma, "beta": beta, "gain": gain}
    found = run("GroupNormQuantize", inputs, groups=4, epsilon=1e-5, silu=activation, zero_point=100)
    normed = group_norm(x.astype(np.float64), 4, 1e-5) * spread(gamma, x) + spread(beta, x)
    agree(found, (silu(normed) if activation else normed) * gain + 100)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shifted", [False, True])
def test_group_norm_of_codes(shape: tuple[int, ...], shifted: bool) -> None:
    x, channels = codes(*shape), shape[-1]
    x_gain, x_offset, shift = positive(channels), numbers(channels), numbers(shape[0], channels)
    gamma, beta, gain = numbers(channels), numbers(channels), 20 + 10 * numbers(channels)
    inputs = {"x": x, "x_gain": x_gain, "x_offset": x_offset, "gamma": gamma, "beta": beta, "gain": gain}
    value = x.astype(np.float64) * x_gain + x_offset
    if shifted:
        inputs["shift"] = shift.reshape(*shift.shape, 1, 1)
        value += spread(shift, x)
    found = run("DequantizeGroupNormQuantize", inputs, groups=2, epsilon=1e-6, silu=1, zero_point=90)
    agree(found, silu(group_norm(value, 2, 1e-6) * gamma + beta) * gain + 90)


@pytest.mark.parametrize("shape", SHAPES)
def test_quantise(shape: tuple[int, ...]) -> None:
    x, gain = numbers(*shape), 60 + 20 * numbers(shape[-1])
    agree(run("QuantizeChannels", {"x": x, "gain": gain}, zero_point=128), x.astype(np.float64) * gain + 128)


@pytest.mark.parametrize("zero_point", [0, 1])
def test_ties_go_to_the_even_number_before_the_zero_point_and_the_range_ends_at_0_and_255(zero_point: int) -> None:
    x = np.array([[-1e9, -0.5, 0.5, 1.5, 2.5, 252.5, 255.4, 1e9]], np.float32).T
    found = run("QuantizeChannels", {"x": x, "gain": np.ones(1, np.float32)}, zero_point=zero_point)
    rounded = np.array([-1e9, 0, 0, 2, 2, 252, 255, 1e9]) + zero_point
    assert found.reshape(-1).tolist() == np.clip(rounded, 0, 255).tolist()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_dequantise_and_add(shape: tuple[int, ...], threads: int) -> None:
    x, gain, offset = codes(*shape), positive(shape[-1]), numbers(shape[-1])
    other, other_gain, floats = codes(*shape), positive(shape[-1]), numbers(*shape)
    common = {"x": x, "gain": gain, "offset": offset}
    value = x * gain + offset
    np.testing.assert_allclose(run("DequantizeChannels", common, threads), value, rtol=1e-5, atol=1e-5)
    found = run("DequantizeAdd", common | {"s": floats}, threads)
    np.testing.assert_allclose(found, value + floats, rtol=1e-5, atol=1e-5)
    found = run("DequantizeSum", common | {"s": other, "g": other_gain}, threads)
    np.testing.assert_allclose(found, value + other * other_gain, rtol=1e-5, atol=1e-5)


def test_repeated_pixels() -> None:
    x = codes(2, 3, 4, 5)
    np.testing.assert_array_equal(run("RepeatPixels", {"x": x}, height=2, width=3), x.repeat(2, 1).repeat(3, 2))


def test_a_vector_that_does_not_fit_is_an_error_and_no_crash() -> None:
    x = numbers(2, 3, 3, 8)
    with pytest.raises(Exception, match="number per channel"):
        run("QuantizeChannels", {"x": x, "gain": numbers(5)}, zero_point=0)
    with pytest.raises(Exception, match="neither channels nor images"):
        inputs = {"x": x, "gamma": numbers(3), "beta": numbers(8), "gain": numbers(8)}
        run("GroupNormQuantize", inputs, groups=2, epsilon=1e-5, silu=0, zero_point=0)
    with pytest.raises(Exception, match="divide the channels"):
        inputs = {"x": x, "gamma": numbers(8), "beta": numbers(8), "gain": numbers(8)}
        run("GroupNormQuantize", inputs, groups=3, epsilon=1e-5, silu=0, zero_point=0)
    with pytest.raises(Exception, match="different shapes"):
        inputs = {"x": codes(1, 2, 8), "gain": numbers(8), "offset": numbers(8), "s": numbers(1, 3, 8)}
        run("DequantizeAdd", inputs)


def test_the_version_is_the_librarys_digest() -> None:
    assert len(library_version()) == 64
