"""FuseAttention: attention as exported becomes one operator and computes the same; what is no such attention stays."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from graph_models import Array, model_bytes, noise, ops, shaped

from ptq_export.engines.ort.attention import FuseAttention

TOKENS, KEYS, WIDTH = 9, 7, 3
BODY = """
 q4 = Reshape(q, queries) qt = Transpose<perm = [0, 2, 1, 3]>(q4) qs = Mul(qt, root)
 k4 = Reshape(k, keys) kt = Transpose<perm = [0, 2, 1, 3]>(k4) kr = Transpose<perm = [0, 1, 3, 2]>(kt)
 ks = Mul(root, kr) v4 = Reshape(v, keys) vt = Transpose<perm = [0, 2, 1, 3]>(v4)
 s = MatMul(qs, ks) p = Softmax<axis = -1>(s) o = MatMul(p, vt) ot = Transpose<perm = [0, 2, 1, 3]>(o)
 y = Reshape(ot, back)
"""


def net(body: str = BODY, heads: int = 2) -> ir.Model:
    channels = heads * WIDTH
    inputs = f"float[R,{channels}] q, float[N,{KEYS},{channels}] k, float[N,{KEYS},{channels}] v"
    return shaped(
        f'<ir_version: 10, opset_import: ["": 18]> net ({inputs}) => (float[R,{channels}] y) '
        f"<float root = {{0.7}}, float[{WIDTH}] roots = {{0.7, 0.6, 0.5}}, int64[2] back = {{-1, {channels}}}, "
        f"int64[4] queries = {{-1, {TOKENS}, {heads}, {WIDTH}}}, int64[4] keys = {{-1, {KEYS}, {heads}, {WIDTH}}}> "
        f"{{ {body} }}"
    )


def run(model: ir.Model, heads: int = 2) -> Array:
    channels = heads * WIDTH
    session = onnxruntime.InferenceSession(model_bytes(model), providers=["CPUExecutionProvider"])
    given = {"q": noise(2 * TOKENS, channels), "k": noise(2, KEYS, channels) * 2, "v": noise(2, KEYS, channels) + 1}
    found: Array = session.run(None, given)[0]
    return found


@pytest.mark.parametrize(
    "body", [BODY, BODY.replace("MatMul(qs, ks)", "MatMul(qt, ks)")], ids=["scaled", "half scaled"]
)
def test_attention_becomes_one_operator_and_computes_the_same(body: str) -> None:
    model = net(body)
    assert FuseAttention()(model).modified
    assert ops(model) == ["Reshape"] * 3 + ["MultiHeadAttention"] + ["Reshape"] * 2
    wanted = run(net(body))
    assert np.ptp(wanted) > 1
    np.testing.assert_allclose(run(model), wanted, atol=1e-6)


def test_one_head_stays() -> None:
    assert not FuseAttention()(net(heads=1)).modified


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Softmax<axis = -1>", "Softmax<axis = 2>"),
        ("Mul(qt, root)", "Mul(qt, roots)"),  # not one number
        ("Softmax<axis = -1>(s)", "Sigmoid(s)"),
        ("ot = Transpose<perm = [0, 2, 1, 3]>(o)", "ot = Transpose<perm = [0, 2, 3, 1]>(o)"),
        ("vt = Transpose<perm = [0, 2, 1, 3]>(v4)", "vn = Neg(v4) vt = Transpose<perm = [0, 2, 1, 3]>(vn)"),
    ],
)
def test_other_products_stay(old: str, new: str) -> None:
    assert old in BODY
    model = net(BODY.replace(old, new))
    before = ops(model)
    assert not FuseAttention()(model).modified and ops(model) == before


def test_weights_that_others_read_are_still_computed() -> None:
    model = net(BODY.replace("y = Reshape(ot, back)", "m = ReduceMax(p) z = Reshape(ot, back) y = Mul(z, m)"))
    wanted = run(model)
    assert FuseAttention()(model).modified and "Softmax" in ops(model)
    np.testing.assert_allclose(run(model), wanted, atol=1e-6)
