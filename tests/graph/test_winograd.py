"""Winograd: what WinogradConv can compute, and wins, goes there, and every code stays the same."""

import numpy as np
import onnxruntime
import pytest
from graph_models import Array, noise, ops, parse
from integer_net import integer_net

from ptq_export.engines.ort import winograd_race
from ptq_export.engines.ort.operators import register, serialised, with_operators
from ptq_export.engines.ort.winograd import Choice, Convolution, Winograd, convolution_of
from ptq_export.engines.ort.winograd_race import Times, faster_here, race

SHAPE = Convolution(height=6, width=8, inputs=2, outputs=3, pads=(1, 0, 1, 1))
NET = """
<ir_version: 10, opset_import: ["": 18, "com.microsoft": 1]>
net (uint8[N,6,8,2] x) => (uint8[N,6,7,3] y)
<float s = {0.1}, uint8 z = {7}, int8[3,2,3,3] w = {WEIGHTS}, int8[3] wz = {0, 0, 0}, float[3] ws = {1, 1, 1}>
{ y = com.microsoft.QLinearConv<channels_last = 1, kernel_shape = [3, 3], pads = [1, 0, 1, 1], strides = [1, 1]>
      (x, s, z, w, ws, wz, s, z) }
""".replace("WEIGHTS", ", ".join(map(str, range(-27, 27))))


def always(_: Convolution) -> bool:
    return True


def never(_: Convolution) -> bool:
    return False


def test_the_shape_of_a_convolution_is_read() -> None:
    [node] = parse(NET).graph
    assert convolution_of(node) == SHAPE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("strides = [1, 1]", "strides = [2, 2]"),
        ("strides = [1, 1]", "dilations = [2, 2]"),
        ("strides = [1, 1]", "group = 2"),
        ("pads = [1, 0, 1, 1]", "pads = [2, 0, 2, 1]"),
        ("int8[3,2,3,3] w", "uint8[3,2,3,3] w"),
        ("int8[3,2,3,3] w", "int8[3,6,3,1] w"),
        ("wz = {0, 0, 0}", "wz = {0, 1, 0}"),
        ("uint8[N,6,7,3] y", "uint8[N,6,W,3] y"),
        ("com.microsoft.QLinearConv", "QLinearConv"),
    ],
)
def test_what_the_operator_cannot_compute_is_left_alone(old: str, new: str) -> None:
    text = NET.replace("-", "") if new.startswith("uint8[3") else NET
    assert old in text
    model = parse(text.replace(old, new))
    assert not Winograd(always)(model).modified
    assert ops(model) == ["QLinearConv"]


def test_the_choice_decides() -> None:
    model, asked = parse(NET), list[Convolution]()
    assert not Winograd(lambda it: bool(asked.append(it)))(model).modified
    assert asked == [SHAPE] and ops(model) == ["QLinearConv"]
    assert Winograd(always)(model).modified
    [node] = model.graph
    assert (node.op_type, node.domain, list(node.attributes)) == ("WinogradConv", "ptq_export", ["pads"])


@pytest.mark.usefixtures("operators")
def test_a_net_gives_the_same_numbers_bit_for_bit() -> None:
    def run(choice: Choice) -> tuple[list[str], Array]:
        _net, graph = integer_net()
        graph = with_operators(graph, choice) or graph
        settings = register(onnxruntime.SessionOptions())
        session = onnxruntime.InferenceSession(serialised(graph), settings, providers=["CPUExecutionProvider"])
        feeds = {"sample": noise(3, 1, 8, 8), "timestep": np.array([5, 500, 999])}
        return ops(graph), session.run(None, feeds)[0]

    (direct_ops, direct), (winograd_ops, winograd) = run(never), run(always)
    assert direct_ops.count("QLinearConv") == winograd_ops.count("WinogradConv") == 1
    np.testing.assert_array_equal(winograd, direct)


@pytest.mark.usefixtures("operators")
@pytest.mark.parametrize("shape", [SHAPE, Convolution(3, 3, 1, 1, (0, 0, 0, 0))])
def test_a_race_times_both_methods(shape: Convolution) -> None:
    times = race(shape, threads=1, images=2, seconds=0)
    assert 0 < times.direct_s < 1 and 0 < times.winograd_s < 1


@pytest.mark.parametrize(("winograd_s", "wins"), [(0.9, True), (1.1, False)])
def test_the_faster_method_wins_and_a_shape_is_raced_once(
    winograd_s: float, wins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    raced: list[Convolution] = []

    def timed(shape: Convolution, _threads: int) -> Times:
        raced.append(shape)
        return Times(1.0, winograd_s)

    monkeypatch.setattr(winograd_race, "race", timed)
    many = [Convolution(8, 8, 5, outputs, (1, 1, 1, 1)) for outputs in (300, 300, 400)]
    choice = faster_here(threads=3 + wins)
    assert [choice(shape) for shape in many] == [wins] * 3
    assert raced == [Convolution(8, 8, 5, 128, (1, 1, 1, 1))], "more outputs take more time in proportion"
