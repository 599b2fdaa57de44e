"""Every rule of TensorRT finds the graph that breaks it and is silent about the one beside it."""

import re

import numpy as np
import onnx_ir as ir
import pytest

from ptq_export.engines.trt.rules import RULES, lint

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\n'
INPUT = "g (float16[N,16,8,8] x, float16[N,16,8,8] r) => (float16[N,16,8,8] y)"
QUANTISED = "q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  k = DequantizeLinear <axis = 0> (w, ws, wz)"
LAYER = f"{QUANTISED}  y = Conv (d, k, b)"
CONSTANTS = {
    "s": np.float16(0.1),
    "z": np.int8(0),
    "w": np.ones((16, 16, 1, 1), np.int8),
    "ws": np.full(16, 0.01, np.float16),
    "wz": np.zeros(16, np.int8),
    "b": np.zeros(16, np.float16),
}


def model(body: str = LAYER, header: str = INPUT, **constants: object) -> ir.Model:
    """The graph of `body`, with `CONSTANTS` but for those given."""
    values = {name: np.asarray(value) for name, value in (CONSTANTS | constants).items()}
    tensors = [
        ir.tensor(value, name=name)
        for name, value in values.items()
        if re.search(rf"\b{name}\b", body.split("=", 1)[1])
    ]
    return ir.from_onnx_text(f"{HEAD}{header} {{ {body} }}", initializers=tensors)


def attention(tokens: int) -> ir.Model:
    header = f"g (float16[N,{tokens},16] x, float16[N,16,{tokens}] r) => (float16[N,{tokens},{tokens}] y)"
    body = "q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  p = QuantizeLinear (r, s, z)"
    body += "  e = DequantizeLinear (p, s, z)  a = MatMul (d, e)  y = Softmax (a)"
    return model(body, header)


def narrow(channels: int) -> ir.Model:
    header = f"g (float16[N,{channels},8,8] x) => (float16[N,16,8,8] y)"
    return model(header=header, w=np.ones((16, channels, 1, 1), np.int8))


RESIDUAL = f"{QUANTISED}  c = Conv (d, k, b)  "
PADDED = LAYER.replace("(x, s, z)", "(p, s, z)")
MOVED = "q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  t = Transpose (d)  o = QuantizeLinear "
MOVED_END = "y = DequantizeLinear (o, s, z)"
CASES = {
    "zero-point": (model(z=np.int8(3)), model()),
    "scale": (model(s=np.float16(0)), model(s=np.float16(1e-4))),
    "uint8": (model(z=np.uint8(0)), model()),
    "integer-bias": (
        model(f"{QUANTISED}  i = DequantizeLinear (bc, s)  y = Conv (d, k, i)", bc=np.zeros(16, np.int32)),
        model(),
    ),
    "integer-op": (
        model("y = ConvInteger (x, w)", "g (int8[N,16,8,8] x) => (int32[N,16,8,8] y)"),
        model("y = Conv (x, f)", f=np.ones((16, 16, 1, 1), np.float16)),
    ),
    "channel-scales": (model(s=np.full(16, 0.1, np.float16), z=np.zeros(16, np.int8)), model()),
    "mixed-types": (
        model("y = Add (x, r)", INPUT.replace("float16[N,16,8,8] r", "float[N,16,8,8] r")),
        model("y = Add (x, r)"),
    ),
    "open-channels": (
        model("y = Conv (x, f)", INPUT.replace("[N,16,8,8] x", "[N,C,8,8] x"), f=np.ones((16, 16, 1, 1), np.float16)),
        model("y = Conv (x, f)", f=np.ones((16, 16, 1, 1), np.float16)),
    ),
    "pad": (
        model(f"p = Pad (x, pads)  {PADDED}", pads=np.zeros(8, np.int64)),
        model(f"p = Relu (x)  {PADDED}"),
    ),
    "half-quantised": (
        model(
            "q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  y = Conv (d, f)",
            f=np.ones((16, 16, 1, 1), np.float16),
        ),
        model(),
    ),
    "weightless": (
        model("q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  y = Relu (d)"),
        model(
            "q = QuantizeLinear (x, s, z)  d = DequantizeLinear (q, s, z)  a = Relu (d)"
            "  o = QuantizeLinear (a, s, z)  y = DequantizeLinear (o, s, z)"
        ),
    ),
    "two-grids": (
        model(f"{MOVED}(t, s2, z)  {MOVED_END}", s2=np.float16(0.2)),
        model(f"{MOVED}(t, s, z)  {MOVED_END}"),
    ),
    "narrow": (narrow(8), narrow(16)),
    "long-attention": (attention(1024), attention(256)),
    "residual": (
        model(f"{RESIDUAL}a = Add (c, r)  o = QuantizeLinear (a, s, z)  y = DequantizeLinear (o, s, z)"),
        model(
            f"{RESIDUAL}p = QuantizeLinear (r, s, z)  e = DequantizeLinear (p, s, z)  a = Add (c, e)"
            "  o = QuantizeLinear (a, s, z)  y = DequantizeLinear (o, s, z)"
        ),
    ),
}


BEHIND = f"{QUANTISED}  c = Conv (d, k, b)  p = QuantizeLinear (c, s, z)  e = DequantizeLinear (p, s, z)  "
BESIDE = f"{QUANTISED}  c = Conv (d, k, b)  p = QuantizeLinear (r, s, z)  e = DequantizeLinear (p, s, z)  "


def broken(graph: ir.Model) -> set[str]:
    return {finding.rule for finding in lint(graph)}


def test_every_rule_has_its_cases() -> None:
    assert set(CASES) == {rule.name for rule in RULES}


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_finds_what_breaks_it_and_nothing_else(rule: str) -> None:
    bad, good = CASES[rule]
    assert broken(bad) == {rule}
    assert broken(good) == set()


def test_a_layer_as_tensorrt_wants_it_breaks_no_rule() -> None:
    assert lint(model()) == []


def test_errors_come_first_and_name_node_sight_and_reason() -> None:
    first, *_ = lint(model(z=np.uint8(3)))
    assert (first.severity, first.rule, first.seen) == ("error", "zero-point", "zero point 3")
    assert "around 0" in first.reason and "QuantizeLinear" in first.node


@pytest.mark.parametrize(
    "body",
    [f"{BEHIND}y = Add (e, r)", f"{BESIDE}y = Add (e, c)"],
    ids=["conv1-output", "residual"],
)
def test_a_grid_behind_or_beside_an_int8_layer_is_that_layers_and_asks_nothing_of_what_reads_it(body: str) -> None:
    assert broken(model(body)) == set()


@pytest.mark.parametrize(
    "body",
    [
        f"{BESIDE}a = Relu (c)  y = Add (e, a)",
        f"{BESIDE}y = Relu (e)",
        "f = Relu (x)  p = QuantizeLinear (f, s, z)  e = DequantizeLinear (p, s, z)  y = Add (e, r)",
    ],
    ids=["no layer in the sum", "no sum", "no layer at all"],
)
def test_a_grid_that_no_layer_writes_or_adds_asks_for_one_on_the_result(body: str) -> None:
    assert broken(model(body)) == {"weightless"}
