"""ChannelsLast: every pattern that it rewrites computes what the plain graph computes; nothing else changes."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from graph_models import Array, model_bytes, noise, ops, shaped

from ptq_export.engines.ort.channels_last import ChannelsLast
from ptq_export.engines.ort.operators import register

pytestmark = pytest.mark.usefixtures("operators")

C, STEP = 8, 0.05
CONSTANTS = f"""
float step = {{{STEP}}}, uint8 middle = {{128}}, float one = {{1}}, uint8 none = {{0}},
float[{C}] steps = {{0.04, 0.05, 0.06, 0.04, 0.05, 0.06, 0.04, 0.05}},
uint8[{C}] middles = {{128, 120, 130, 128, 125, 128, 110, 128}},
float[{C}] w_scale = {{0.0313, 0.0271, 0.0239, 0.0313, 0.0271, 0.0239, 0.0313, 0.0271}},
int8[{C}] w_zero = {{0, 0, 0, 0, 0, 0, 0, 0}},
float[{C}] b_scale = {{0.001565, 0.001355, 0.001195, 0.001565, 0.001355, 0.001195, 0.001565, 0.001355}},
int32[{C}] b_zero = {{0, 0, 0, 0, 0, 0, 0, 0}},
int32[{C}] bias = {{76677, 89298, 102092, 78594, 91512, 104602, 80511, 93726}},
float[{C},1,1] gain = {{1, 2, 1, 1.5, 1, 1, 0.5, 1}}, float[{C},1,1] gamma = {{1, 2, 3, 1, 2, 3, 1, 2}},
float[{C},1,1] beta = {{0, 1, -1, 0, 1, -1, 0, 1}}, int64[3] groups = {{0, 2, -1}},
int64[4] image = {{-1, {C}, 4, 4}}, int64[3] row = {{0, {C}, 16}}, int64[2] rows = {{-1, {C}}},
int64[3] tokens = {{-1, 16, {C}}}, int64[4] twofold = {{-1, {2 * C}, 4, 4}},
float[{2 * C},1,1] gains = {{1, 2, 1, 1.5, 1, 1, 0.5, 1, 1, 2, 1, 1.5, 1, 1, 0.5, 1}},
float[2] ones = {{1, 1}}, float[2] zeros = {{0, 0}},
float[4] twice = {{1, 1, 2, 2}}
"""
CONV = """
 NAME_d = DequantizeLinear(CODES, step, middle) NAME_w = DequantizeLinear<axis = 0>(weight, w_scale, w_zero)
 NAME_b = DequantizeLinear<axis = 0>(bias, b_scale, b_zero)
 NAME_y = Conv<pads = [1, 1, 1, 1]>(NAME_d, NAME_w, NAME_b) NAME_q = QuantizeLinear(NAME_y, one, none)
 NAME = DequantizeLinear<axis = 1>(NAME_q, steps, middles)
"""
GROUP_NORM = """
 NAME_a = Reshape(IN, groups) NAME_n = InstanceNormalization(NAME_a, ones, zeros) NAME_r = Reshape(NAME_n, TARGET)
 NAME_g = Mul(NAME_r, gamma) NAME_h = Add(NAME_g, beta)
"""
SILU = " NAME_s = Sigmoid(NAME_h) NAME = Mul(NAME_h, NAME_s)"
QUANTISE = " NAME_m = Mul(IN, gain) NAME = QuantizeLinear(NAME_m, step, middle)"


def conv(name: str, codes: str) -> str:
    return CONV.replace("NAME", name).replace("CODES", codes)


def norm(name: str, given: str) -> str:
    return (GROUP_NORM + SILU).replace("NAME", name).replace("IN", given).replace("TARGET", "image")


def quantise(name: str, given: str) -> str:
    return QUANTISE.replace("NAME", name).replace("IN", given)


FIRST = quantise("q0", "x") + conv("c0", "q0")
BLOCK = FIRST + norm("n1", "c0") + quantise("q1", "n1") + conv("c1", "q1")
SHIFTED = FIRST + " t0 = Add(c0, shift)" + norm("n1", "t0") + quantise("q1", "n1") + conv("c1", "q1")
ROWS = """
 r0 = Reshape(a0, row) n_a = Reshape(r0, groups) n_n = InstanceNormalization(n_a, ones, zeros) n_r = Reshape(n_n, row)
 t1 = Transpose<perm = [0, 2, 1]>(n_r) t2 = Reshape(t1, rows) q1 = QuantizeLinear(t2, step, middle)
 d1 = DequantizeLinear(q1, step, middle) u1 = Reshape(d1, tokens) u2 = Transpose<perm = [0, 2, 1]>(u1)
 u3 = Reshape(u2, image) y = Add(u3, a0)
"""
PIXELS = """
 m1 = Mul(a0, gain) r1 = Reshape(m1, row) t1 = Transpose<perm = [0, 2, 1]>(r1) t2 = Reshape(t1, rows)
 q1 = QuantizeLinear(t2, step, middle) d1 = DequantizeLinear(q1, step, middle) u1 = Reshape(d1, tokens)
 u2 = Transpose<perm = [0, 2, 1]>(u1) u3 = Reshape(u2, image) y = Add(u3, c0)
"""
NETS = {
    "a convolution": FIRST + " y = Neg(c0)",
    "codes through a norm": BLOCK + " y = Neg(c1)",
    "a time embedding before the norm": SHIFTED + " y = Neg(c1)",
    "a residual addition of floats": BLOCK + " y = Add(x, c1)",
    "a residual addition of codes": BLOCK + conv("c2", "q0") + " y = Add(c2, c1)",
    "floats through a norm": BLOCK
    + " a1 = Add(c1, x)"
    + norm("n2", "a1")
    + quantise("q2", "n2")
    + conv("c2", "q2")
    + " y = Add(c2, a1)",
    "floats straight to codes": BLOCK + " a1 = Add(c1, x)" + quantise("q2", "a1") + conv("c2", "q2") + " y = Neg(c2)",
    "attention's rows": FIRST + " a0 = Add(c0, x)" + ROWS,
    "rows of pixels": FIRST + " a0 = Add(c0, x)" + PIXELS,
}
OPERATORS = {
    "a convolution": set(),
    "codes through a norm": {"DequantizeGroupNormQuantize"},
    "a time embedding before the norm": {"DequantizeGroupNormQuantize"},
    "a residual addition of floats": {"DequantizeGroupNormQuantize", "DequantizeAdd"},
    "a residual addition of codes": {"DequantizeGroupNormQuantize", "DequantizeSum"},
    "floats through a norm": {"DequantizeGroupNormQuantize", "DequantizeAdd", "GroupNormQuantize"},
    "floats straight to codes": {"DequantizeGroupNormQuantize", "DequantizeAdd", "QuantizeChannels"},
    "attention's rows": {"DequantizeAdd", "GroupNormQuantize"},
    "rows of pixels": {"DequantizeAdd", "QuantizeChannels"},
}


def codes_under_the_pair_rule() -> Array:
    """Weights `[O, I, 3, 3]` whose sums are exact on every processor: no two channels that meet are above 127 together
    (`Scheme.pair_limit`)."""
    rng = np.random.default_rng(0)
    first = rng.integers(-100, 101, (C, C // 2, 3, 3))
    second = rng.choice([-1, 1], first.shape) * (127 - np.abs(first))
    return np.stack([first, second], 2).reshape(C, C, 3, 3)


def net(body: str, size: int = 4) -> ir.Model:
    weight = ", ".join(map(str, codes_under_the_pair_rule().flat))
    inputs = f"float[N,{C},4,4] x, float[N,{C},1,1] shift"
    return shaped(
        f'<ir_version: 10, opset_import: ["": 18]> net ({inputs}) => (float[N,{C},{size},{size}] y) '
        f"<int8[{C},{C},3,3] weight = {{{weight}}}, {CONSTANTS}> {{ {body} }}"
    )


def rewritten(body: str, size: int = 4) -> ir.Model:
    model = net(body, size)
    assert ChannelsLast()(model).modified
    return model


def run(model: ir.Model) -> Array:
    settings = register(onnxruntime.SessionOptions())
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model_bytes(model), settings, providers=["CPUExecutionProvider"])
    result: Array = session.run(["y"], {"x": noise(3, C, 4, 4), "shift": noise(3, C, 1, 1)})[0]
    return result


def same(model: ir.Model, plain: ir.Model, steps: int) -> None:
    """Equal but for codes at the edge of rounding: a few may be off by some steps of 0.06."""
    found, wanted = run(model), run(plain)
    off = np.abs(found - wanted)
    assert np.ptp(wanted) > 3, "the test net says something"
    assert np.mean(off > 1e-3) < 0.02
    assert off.max() <= steps * 0.06 + 1e-3


@pytest.mark.parametrize("name", NETS)
def test_the_rewritten_net_computes_the_same(name: str) -> None:
    same(rewritten(NETS[name]), net(NETS[name]), 4)


@pytest.mark.parametrize("name", NETS)
def test_nothing_slow_is_left_between_convolutions(name: str) -> None:
    model = rewritten(NETS[name])
    found = {node.op_type for node in model.graph if node.domain == "ptq_export"}
    assert found == OPERATORS[name]
    left = {"InstanceNormalization", "Sigmoid", "Conv"} & set(ops(model))
    assert not left
    inputs = [value.name for value in model.graph.inputs]
    assert inputs == ["x", "shift"] and [value.name for value in model.graph.outputs] == ["y"]


def test_rows_are_those_of_a_channels_last_image() -> None:
    """The transposes that are left stand at the ends: those of the input and of its codes, and the result's."""
    model = rewritten(NETS["rows of pixels"])
    transposes = [node for node in model.graph if node.op_type == "Transpose"]
    assert [node.inputs[0].name for node in transposes] == ["x", "q0", "y_last"]


def test_pixels_are_repeated_as_codes() -> None:
    body = (
        BLOCK
        + ' a1 = Add(c1, x) big = Resize<mode = "nearest", coordinate_transformation_mode = "asymmetric", '
        + 'nearest_mode = "floor">(a1, , twice)'
        + quantise("q2", "big")
        + conv("c2", "q2")
        + " y = Neg(c2)"
    )
    model = rewritten(body, 8)
    assert "RepeatPixels" in ops(model) and "Resize" not in ops(model)
    same(model, net(body, 8), 4)


def test_concat_of_codes_and_floats_stays_last() -> None:
    body = FIRST + " both = Concat<axis = 1>(c0, x) y0, y1 = Split<axis = 1, num_outputs = 2>(both) y = Add(y0, y1)"
    model = rewritten(body)
    assert [node.attributes.get_int("axis") for node in model.graph if node.op_type == "Concat"] == [3]
    same(model, net(body), 1)


def test_both_parts_of_a_concat_are_read_in_its_place() -> None:
    """As a decoder's blocks have it: a group norm and a shortcut read what was concatenated."""
    reads = quantise("q1", "n_r") + quantise("q2", "both")
    body = f"""{FIRST} both = Concat<axis = 1>(c0, x)
     n_a = Reshape(both, groups) n_n = InstanceNormalization(n_a, ones, zeros) n_r = Reshape(n_n, twofold)
     {reads.replace("gain)", "gains)")}
     d1 = DequantizeLinear(q1, step, middle) d2 = DequantizeLinear(q2, step, middle) e = Add(d1, d2)
     y0, y1 = Split<axis = 1, num_outputs = 2>(e) y = Add(y0, y1)"""
    model = rewritten(body)
    assert "Concat" not in ops(model)
    assert {"GroupNormQuantize", "QuantizeChannels"} <= {*ops(model)}
    same(model, net(body), 2)


@pytest.mark.parametrize("name", NETS)
def test_nothing_is_computed_for_nobody(name: str) -> None:
    """A twin may be made behind a reader that goes: its transpose must go, too."""
    model = rewritten(NETS[name])
    read = {value for node in model.graph for value in node.inputs} | {*model.graph.outputs}
    assert [node.name for node in model.graph if not {*node.outputs} & read] == []


def test_a_result_that_a_float_layer_reads_too_is_there_channels_first() -> None:
    body = BLOCK + " s = Relu(n1) m = Add(s, c1) y = Neg(m)"
    same(rewritten(body), net(body), 1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("c0_y, one, none", "c0_y, steps, middles"),  # the convolution's quantiser has a scale per channel
        ("c0_y = Conv<", 'c0_y = Conv<auto_pad = "VALID", '),
        ("QuantizeLinear(c0_y", "QuantizeLinear(x"),  # no convolution before the quantiser
    ],
)
def test_other_convolutions_are_left_alone(old: str, new: str) -> None:
    body = NETS["a convolution"]
    assert old in body
    assert not ChannelsLast()(net(body.replace(old, new))).modified


def test_int8_activations_are_left_alone() -> None:
    model = net(NETS["a convolution"])
    zero = model.graph.initializers["middle"]
    zero.const_value = ir.tensor(np.array(0, np.int8), name="middle")
    assert not ChannelsLast()(model).modified


def test_a_float_graph_is_left_alone() -> None:
    model = net("n1 = Relu(x) y = Neg(n1)")
    assert not ChannelsLast()(model).modified
    assert ops(model) == ["Relu", "Neg"]
