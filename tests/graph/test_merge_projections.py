"""Several linear layers of the same input become one."""

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graph_models import Array, model_bytes, noise, ops, parse

from ptq_export.graph.passes.merge_projections import MergeProjections

RESULTS = "float[N,1] a, float[N,3] b, float[N,2] c"
HEADS = f"""
<ir_version: 10, opset_import: ["": 18]>
net (float[N,2] x) => ({RESULTS})
<float[1,2] wa = {{1, 2}}, float[1] ba = {{0.5}}, float[2,3] wb = {{1, 2, 3, 4, 5, 6}},
 float[2,2] wc = {{1, -1, 2, -2}}, float one = {{1}}, int64[2] hw = {{2, 3}}, int64[2] front = {{1, 2}}>
{{
    a = Gemm<transB = 1>(x, wa, ba)
    b = Gemm(x, wb)
    c = Gemm<transB = 1>(x, wc, one)
}}
"""


def outputs(model: ir.Model) -> list[Array]:
    session = ort.InferenceSession(model_bytes(model), providers=["CPUExecutionProvider"])
    results: list[Array] = session.run(None, {"x": noise(4, 2)})
    return results


def merged(text: str) -> ir.Model:
    """The model after the pass, which changed it and none of its results."""
    model = parse(text)
    assert MergeProjections()(model).modified
    for got, wanted in zip(outputs(model), outputs(parse(text)), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-6)
    return model


def behind_unsqueezes(axes: tuple[str, str, str], shapes: tuple[str, str, str]) -> str:
    """The heads with an Unsqueeze behind each."""
    results = ", ".join(f"float{shape} {name}" for shape, name in zip(shapes, "def", strict=True))
    nodes = " ".join(f"{new} = Unsqueeze({old}, {axis})" for new, old, axis in zip("def", "abc", axes, strict=True))
    return HEADS.replace(RESULTS, results).replace("(x, wc, one)", f"(x, wc, one) {nodes}")


def test_heads_of_one_input_become_one_gemm_with_the_same_results() -> None:
    model = merged(HEADS)
    assert ops(model) == ["Gemm", "Split"]
    assert [value.name for value in model.graph.outputs] == ["a", "b", "c"]
    assert len(model.graph.initializers) == 3  # weight, bias, widths: the old ones are gone


def test_equal_unsqueezes_become_one_before_the_split() -> None:
    model = merged(behind_unsqueezes(("hw", "hw", "hw"), ("[N,1,1,1]", "[N,3,1,1]", "[N,2,1,1]")))
    assert ops(model) == ["Gemm", "Unsqueeze", "Split"]


@pytest.mark.parametrize(
    ("axes", "shapes"),
    [
        (("hw", "front", "hw"), ("[N,1,1,1]", "[N,1,1,3]", "[N,2,1,1]")),
        (("front", "front", "front"), ("[N,1,1,1]", "[N,1,1,3]", "[N,1,1,2]")),
    ],
    ids=["unlike", "before the channels"],
)
def test_other_unsqueezes_stay(axes: tuple[str, str, str], shapes: tuple[str, str, str]) -> None:
    assert ops(merged(behind_unsqueezes(axes, shapes))) == ["Gemm", "Split", "Unsqueeze", "Unsqueeze", "Unsqueeze"]


def test_unsqueezes_stay_where_the_flat_result_is_wanted_too() -> None:
    text = behind_unsqueezes(("hw", "hw", "hw"), ("[N,1,1,1]", "[N,3,1,1]", "[N,2,1,1]")).replace(
        "=> (", "=> (float[N,1] a, "
    )
    assert ops(merged(text)) == ["Gemm", "Split", "Unsqueeze", "Unsqueeze", "Unsqueeze"]


def test_heads_that_feed_heads_are_merged_too() -> None:
    further = "(x, wc, one) d = Gemm<transB = 1>(c, wa) e = Gemm<transB = 1>(c, wa, ba)"
    text = HEADS.replace(RESULTS, f"{RESULTS}, float[N,1] d, float[N,1] e").replace("(x, wc, one)", further)
    assert ops(merged(text)) == ["Gemm", "Split", "Gemm", "Split"]


@pytest.mark.parametrize(
    "text",
    [
        HEADS.replace("transB = 1", "transB = 1, alpha = 0.5"),
        HEADS.replace("float[N,2] x)", "float[N,2] x, float[2,3] wb, float[2,2] wc)"),
    ],
    ids=["scaled", "weights that the caller may give"],
)
def test_gemms_that_cannot_be_merged_are_left_alone(text: str) -> None:
    model = parse(text)
    before = model_bytes(model)
    assert not MergeProjections()(model).modified
    assert model_bytes(model) == before
