"""Our operators of ONNX Runtime compute what numpy computes, for odd shapes, several images and threads, and with the
loops for every instruction set that this processor has."""

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from operator_nets import exact
from operator_nets import run as run_net
from own_copy import loaded

from ptq_export.engines.build_cache import current
from ptq_export.engines.ort import operators as ort_operators
from ptq_export.errors import InputError

pytestmark = pytest.mark.usefixtures("operators")

SHAPES = [(1, 4, 4, 8), (3, 5, 7, 12), (2, 1, 1, 20), (1, 70, 33, 64), (2, 300, 40)]
"""Channels that fill no vector, one pixel, more pixels than one task takes, and rows of tokens."""
RNG = np.random.default_rng(0)
Run = Any


@pytest.fixture(scope="module", params=["avx512", "avx2", "baseline"])
def run(operators: Path, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Runs an operator with the loops for one instruction set."""
    with pytest.MonkeyPatch.context() as patch:
        library, _settings = loaded(operators, request.param, tmp_path_factory.mktemp(request.param), patch)
        yield lambda op, inputs, threads=2, **attributes: run_net(library, op, inputs, attributes, threads)


def numbers(*shape: int) -> NDArray:
    return RNG.standard_normal(shape).astype(np.float32)


def codes(*shape: int) -> NDArray:
    return RNG.integers(0, 256, shape).astype(np.uint8)


def positive(*shape: int) -> NDArray:
    return RNG.uniform(0.01, 0.05, shape).astype(np.float32)


def agree(found: NDArray, numbers: NDArray) -> None:
    """Codes are those `numbers` rounded, but for numbers next to the middle between two."""
    wanted = np.clip(np.rint(numbers), 0, 255)
    assert found.dtype == np.uint8 and found.shape == numbers.shape
    off = np.abs(found - wanted)
    assert off.max() <= 1
    assert np.all(np.abs(numbers - np.floor(numbers) - 0.5)[off > 0] < 1e-3)
    assert len(np.unique(wanted)) > 8, "the test says something"


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize("per_image", [False, True])
def test_group_norm_of_floats(run: Run, shape: tuple[int, ...], activation: int, per_image: bool) -> None:
    x, channels = 3 * numbers(*shape) + 5, shape[-1]
    vectors = (shape[0], channels) if per_image else (channels,)
    inputs = {"x": x, "gamma": numbers(*vectors), "beta": numbers(*vectors), "gain": 20 + 10 * numbers(channels)}
    attributes = {"groups": 4, "epsilon": 1e-5, "silu": activation, "zero_point": 100}
    agree(run("GroupNormQuantize", inputs, **attributes), exact("GroupNormQuantize", inputs, attributes))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shifted", [False, True])
def test_group_norm_of_codes(run: Run, shape: tuple[int, ...], shifted: bool) -> None:
    op, channels = "DequantizeGroupNormQuantize", shape[-1]
    inputs = {"x": codes(*shape), "x_gain": positive(channels), "x_offset": numbers(channels)}
    inputs |= {"gamma": numbers(channels), "beta": numbers(channels), "gain": 20 + 10 * numbers(channels)}
    if shifted:
        inputs["shift"] = numbers(shape[0], channels, 1, 1)
    attributes = {"groups": 2, "epsilon": 1e-6, "silu": 1, "zero_point": 90}
    agree(run(op, inputs, **attributes), exact(op, inputs, attributes))


@pytest.mark.parametrize("shape", SHAPES)
def test_quantise(run: Run, shape: tuple[int, ...]) -> None:
    inputs = {"x": numbers(*shape), "gain": 60 + 20 * numbers(shape[-1])}
    found = run("QuantizeChannels", inputs, zero_point=128)
    agree(found, exact("QuantizeChannels", inputs, {"zero_point": 128}))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("others", [1, 3, 20])
def test_channels_of_two_tensors_are_those_of_their_concatenation(
    run: Run, shape: tuple[int, ...], others: int
) -> None:
    x, more, channels = 3 * numbers(*shape) + 5, numbers(*shape[:-1], others), shape[-1] + others
    groups = {"groups": 2 if channels % 2 == 0 else 1, "epsilon": 1e-5, "silu": 1, "zero_point": 100}
    vectors = {"gamma": numbers(channels), "beta": numbers(channels), "gain": 20 + 10 * numbers(channels)}
    cases = {"GroupNormQuantize": (vectors, groups), "QuantizeChannels": ({"gain": vectors["gain"]}, {"zero_point": 9})}
    for op, (given, attributes) in cases.items():
        apart = run(op, {"x": x, **given, "more": more}, **attributes)
        whole = run(op, {"x": np.concatenate([x, more], -1), **given}, **attributes)
        assert np.array_equal(apart, whole)
        agree(apart, exact(op, {"x": x, **given, "more": more}, attributes))


def test_more_channels_of_other_pixels_are_refused(run: Run) -> None:
    for shape in ((2, 3, 4), (3, 3, 8, 1), (8,), ()):
        with pytest.raises(Exception, match="not those of the same pixels"):
            inputs = {"x": numbers(2, 4, 8), "gain": numbers(12), "more": np.zeros(shape, np.float32)}
            run("QuantizeChannels", inputs, zero_point=0)


@pytest.mark.parametrize("zero_point", [0, 1])
def test_ties_go_to_the_even_number_before_the_zero_point_and_the_range_ends_at_0_and_255(
    run: Run, zero_point: int
) -> None:
    x = np.array([[-1e9, -0.5, 0.5, 1.5, 2.5, 252.5, 255.4, 1e9]], np.float32).T
    found = run("QuantizeChannels", {"x": x, "gain": np.ones(1, np.float32)}, zero_point=zero_point)
    rounded = np.array([-1e9, 0, 0, 2, 2, 252, 255, 1e9]) + zero_point
    assert found.reshape(-1).tolist() == np.clip(rounded, 0, 255).tolist()


def test_not_a_number_is_code_0_and_infinities_are_the_ends_as_in_onnx_runtime(run: Run) -> None:
    powers = 2.0 ** np.arange(20, 34)
    x = np.array([np.nan, -np.nan, np.inf, -np.inf, 3e38, -3e38, 1, *powers, *-powers], np.float32)
    x = np.resize(x, (4, 7, 16))
    ones = np.ones(16, np.float32)
    found = run("QuantizeChannels", {"x": x, "gain": ones}, zero_point=7)
    assert (found == np.clip(np.nan_to_num(x, nan=-1e9) + 7, 0, 255)).all()
    assert (found == quantized_by_onnx_runtime(x, 7)).all()


def test_a_silu_of_huge_numbers_is_the_number_or_0(run: Run) -> None:
    """Of two values the norm makes -1 and 1, which gamma makes huge."""
    x = np.array([[[0], [1]]], np.float32)
    one = np.ones(1, np.float32)
    inputs = {"x": x, "gamma": 1.5e38 * one, "beta": 0 * one, "gain": one}
    found = run("GroupNormQuantize", inputs, groups=1, epsilon=0.0, silu=1, zero_point=3)
    assert found.reshape(-1).tolist() == [3, 255]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("threads", [1, 2])
def test_dequantise_and_add(run: Run, shape: tuple[int, ...], threads: int) -> None:
    common = {"x": codes(*shape), "gain": positive(shape[-1]), "offset": numbers(shape[-1])}
    more = {
        "DequantizeChannels": {},
        "DequantizeAdd": {"s": numbers(*shape)},
        "DequantizeSum": {"s": codes(*shape), "g": positive(shape[-1])},
    }
    for op, summand in more.items():
        wanted = exact(op, common | summand, {})
        np.testing.assert_allclose(run(op, common | summand, threads), wanted, rtol=1e-5, atol=1e-5)


def test_repeated_pixels(run: Run) -> None:
    x = codes(2, 3, 4, 5)
    np.testing.assert_array_equal(run("RepeatPixels", {"x": x}, height=2, width=3), x.repeat(2, 1).repeat(3, 2))


def test_a_vector_that_does_not_fit_is_an_error_and_no_crash(run: Run) -> None:
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


@pytest.mark.parametrize("shape", [(), (8,), (1, 3, 8), (1, 2, 2, 2, 8)], ids=str)
def test_a_rank_that_does_not_fit_is_an_error_and_no_crash(run: Run, shape: tuple[int, ...]) -> None:
    with pytest.raises(Exception, match="four dimensions"):
        run("RepeatPixels", {"x": codes(*shape)}, height=2, width=2)
    if len(shape) < 2:
        with pytest.raises(Exception, match="two dimensions at least"):
            run("QuantizeChannels", {"x": numbers(*shape), "gain": numbers(*shape)}, zero_point=0)


@pytest.mark.parametrize(
    ("op", "attribute", "value"),
    [
        *[("RepeatPixels", name, value) for name in ("height", "width") for value in (0, -1, 1025, 2**62)],
        *[("GroupNormQuantize", "groups", value) for value in (0, -1, 2**62)],
        *[("GroupNormQuantize", "epsilon", value) for value in (float("nan"), float("inf"), -1.0)],
        *[("GroupNormQuantize", "zero_point", value) for value in (-1, 256)],
        *[("GroupNormQuantize", "silu", 2), ("QuantizeChannels", "zero_point", -(2**63))],
    ],
)
def test_an_attribute_out_of_range_is_refused_when_the_graph_is_loaded(
    operators: Path, op: str, attribute: str, value: float
) -> None:
    x = numbers(1, 2, 2, 8)
    fine = {"RepeatPixels": ("height", "width"), "QuantizeChannels": ("zero_point",)}
    names = fine.get(op, ("groups", "epsilon", "zero_point", "silu"))
    attributes = {name: 1e-5 if name == "epsilon" else 1 for name in names} | {attribute: value}
    inputs = {"x": codes(1, 2, 2, 8)} if op == "RepeatPixels" else {"x": x, "a": x, "b": x, "c": x}
    with pytest.raises(Exception, match=f"the attribute {attribute} is out of range"):
        run_net(operators, op, dict(list(inputs.items())[: 2 if op == "QuantizeChannels" else 4]), attributes)


def test_empty_tensors_give_empty_tensors(run: Run) -> None:
    for shape in ((0, 3, 8), (2, 0, 8), (2, 3, 0), (0, 2**40, 0)):
        x, vector = np.zeros(shape, np.float32), np.zeros(shape[-1], np.float32)
        inputs = {"x": x, "gamma": vector, "beta": vector, "gain": vector}
        found = run("GroupNormQuantize", inputs, groups=4, epsilon=1e-5, silu=0, zero_point=0)
        assert found.shape == shape
        assert run("QuantizeChannels", {"x": x, "gain": vector}, zero_point=0).shape == shape


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="elsewhere there is one set of loops")
def test_the_variable_picks_the_loops(operators: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """x86's baseline rounds the product and the sum, AVX2 has one instruction for both."""
    inputs = {"x": codes(1, 4, 64), "gain": positive(64), "offset": numbers(64)}
    found = {}
    for isa in ("baseline", "avx2"):
        (tmp_path / isa).mkdir()
        library, _settings = loaded(operators, isa, tmp_path / isa, monkeypatch)
        found[isa] = run_net(library, "DequantizeChannels", inputs, {})
    assert (found["baseline"] == inputs["x"] * inputs["gain"] + inputs["offset"]).all()
    assert (found["avx2"] != found["baseline"]).any()


def test_a_variable_that_names_no_loops_is_refused_and_no_engine_depends_on_it(
    operators: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = ort_operators.library_version(), current("ort", {}, "")
    copy = shutil.copy(operators, tmp_path)
    monkeypatch.setenv(ort_operators.ISA, "avx9")
    assert (ort_operators.library_version(), current("ort", {}, "")) == before and len(before[0]) == 64
    monkeypatch.setattr(Path, "glob", lambda *_: iter([Path(copy)]))
    with pytest.raises(InputError, match=r"none of this processor's: .*baseline"):
        ort_operators.library.__wrapped__()


def quantized_by_onnx_runtime(x: NDArray, zero_point: int) -> NDArray:
    """QuantizeLinear with a scale of 1."""
    nodes = [helper.make_node("QuantizeLinear", ["x", "one", "zero"], ["y"])]
    constants = {"one": np.float32(1), "zero": np.uint8(zero_point)}
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    values = [helper.make_tensor_value_info("x", 1, x.shape)], [helper.make_tensor_value_info("y", 2, x.shape)]
    graph = helper.make_graph(nodes, "net", *values, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    result: NDArray = session.run(None, {"x": x})[0]
    return result
