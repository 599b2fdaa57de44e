"""Several linear layers of the same input become one."""

import numpy as np
import onnxruntime as ort
import pytest
from graph_models import model_bytes, noise, ops, parse

from ptq_export.graph.merge_projections import MergeProjections

HEADS = """
<ir_version: 10, opset_import: ["": 18]>
net (float[N,2] x) => (float[N,1] a, float[N,3] b, float[N,2] c)
<float[1,2] wa = {1, 2}, float[1] ba = {0.5}, float[2,3] wb = {1, 2, 3, 4, 5, 6}, float[2,2] wc = {1, -1, 2, -2},
 float one = {1}>
{
    a = Gemm<transB = 1>(x, wa, ba)
    b = Gemm(x, wb)
    c = Gemm<transB = 1>(x, wc, one)
}
"""


def outputs(model, *inputs):
    session = ort.InferenceSession(model_bytes(model), providers=["CPUExecutionProvider"])
    return session.run(None, dict(zip([value.name for value in session.get_inputs()], inputs, strict=True)))


def test_heads_of_one_input_become_one_gemm_with_the_same_results() -> None:
    model, x = parse(HEADS), noise(4, 2)
    expected = outputs(model, x)
    assert MergeProjections()(model).modified
    assert ops(model) == ["Gemm", "Split"]
    assert [value.name for value in model.graph.outputs] == ["a", "b", "c"]
    assert len(model.graph.initializers) == 3  # weight, bias, widths: the old ones are gone
    for got, wanted in zip(outputs(model, x), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_equal_unsqueezes_become_one_before_the_split() -> None:
    text = HEADS.replace(
        "float[N,1] a, float[N,3] b, float[N,2] c", "float[N,1,1,1] d, float[N,3,1,1] e, float[N,2,1,1] f"
    )
    text = text.replace("float one = {1}", "float one = {1}, int64[2] hw = {2, 3}")
    text = text.replace("(x, wc, one)", "(x, wc, one) d = Unsqueeze(a, hw) e = Unsqueeze(b, hw) f = Unsqueeze(c, hw)")
    model, x = parse(text), noise(4, 2)
    expected = outputs(model, x)
    assert MergeProjections()(model).modified
    assert ops(model) == ["Gemm", "Unsqueeze", "Split"]
    for got, wanted in zip(outputs(model, x), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_unsqueezes_of_other_axes_stay() -> None:
    text = HEADS.replace("float[N,1] a, float[N,3] b, float[N,2] c", "float[N,1,1] d, float[N,3,1,1] e, float[N,2] c")
    text = text.replace("float one = {1}", "float one = {1}, int64[2] hw = {2, 3}, int64[1] h = {2}")
    model, x = parse(text.replace("(x, wb)", "(x, wb) d = Unsqueeze(a, h) e = Unsqueeze(b, hw)")), noise(4, 2)
    expected = outputs(model, x)
    assert MergeProjections()(model).modified
    assert ops(model) == ["Gemm", "Split", "Unsqueeze", "Unsqueeze"]
    for got, wanted in zip(outputs(model, x), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


def test_heads_that_feed_heads_are_merged_too() -> None:
    text = HEADS.replace("float[N,2] c", "float[N,2] c, float[N,1] d, float[N,1] e")
    model, x = (
        parse(text.replace("(x, wc, one)", "(x, wc, one) d = Gemm<transB = 1>(c, wa) e = Gemm<transB = 1>(c, wa, ba)")),
        noise(4, 2),
    )
    expected = outputs(model, x)
    assert MergeProjections()(model).modified
    assert ops(model) == ["Gemm", "Split", "Gemm", "Split"]
    for got, wanted in zip(outputs(model, x), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        HEADS.replace("transB = 1", "transB = 1, alpha = 0.5"),
        HEADS.replace("float[N,2] x)", "float[N,2] x, float[2,3] wb)")
        .replace("float[2,3] wb = {1, 2, 3, 4, 5, 6},", "")
        .replace("c = Gemm<transB = 1>(x,", "c = Gemm<transB = 1>(a2,")
        .replace("b = Gemm", "a2 = Relu(x) b = Gemm"),
    ],
    ids=["scaled", "weight is an input"],
)
def test_gemms_that_cannot_be_merged_are_left_alone(text: str) -> None:
    model = parse(text)
    before = model_bytes(model)
    assert not MergeProjections()(model).modified
    assert model_bytes(model) == before
