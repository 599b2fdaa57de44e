"""What conditions alone decide goes to a graph of its own, as late as it can be handed over; nothing else does."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_models import shaped
from onnxruntime import InferenceSession

from ptq_export.graph.passes.split_conditions import join_conditions, split_conditions

Array = np.ndarray
INPUTS = "float[batch,2,4] sample, int64[batch] timestep"
CONSTANTS = "float[3,4] w = {1,0,2,1, 0,1,-1,2, 3,1,0,-1}, float[4] b = {1,-1,0,2}, float s = {0.5}, int64[1] one = {1}"


def net(body: str, conditions: str = "float[batch,tokens,3] text", constants: str = "") -> ir.Model:
    """A network whose `body` makes `eps` of the sample and the conditions."""
    head = f'<ir_version: 10, opset_import: ["": 18]> net ({INPUTS}, {conditions}) => (float[batch,2,4] eps)'
    return shaped(f"{head} <{CONSTANTS}{constants}> {{ {body} }}")


ATTENTION = """
    p = MatMul(text, w)
    k = Add(p, b)
    t = Transpose <perm = [0, 2, 1]> (k)
    scaled = Mul(t, s)
    scores = MatMul(sample, scaled)
    probable = Softmax(scores)
    eps = MatMul(probable, k)
"""


def feeds(tokens: int = 5) -> dict[str, Array]:
    rng = np.random.default_rng(0)
    sample, text = (rng.standard_normal(shape).astype(np.float32) for shape in ((2, 2, 4), (2, tokens, 3)))
    return {"sample": sample, "timestep": np.array([3, 900]), "text": text}


def outputs(model: ir.Model, given: dict[str, Any]) -> dict[str, Array]:
    session = InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    taken = {each.name for each in session.get_inputs()}
    return dict(zip(names, session.run(names, {name: given[name] for name in taken}), strict=True))


def names(values: Any) -> list[str]:
    return [f"{value.name} {value.shape}" for value in values]


def split(model: ir.Model) -> tuple[ir.Model, ir.Model]:
    parts = split_conditions(model)
    assert parts is not None
    return parts


def test_what_the_step_reads_is_handed_over_at_the_last_moment() -> None:
    step, prompt = split(net(ATTENTION))
    assert names(step.graph.inputs)[2:] == names(prompt.graph.outputs)
    assert names(prompt.graph.outputs) == ["prompt_node_p [batch,tokens,4]", "prompt_node_p_2 [batch,4,tokens]"]
    assert [node.name for node in step.graph] == ["node_scores", "node_probable", "node_eps"]
    assert [node.name for node in prompt.graph] == ["node_p", "node_k", "node_t", "node_scaled"]
    for part in (step, prompt):
        onnx.checker.check_model(ir.to_proto(part), full_check=True)


def test_both_graphs_and_the_joined_one_compute_what_the_whole_one_does() -> None:
    model, given = net(ATTENTION), feeds()
    whole = outputs(model, given)["eps"]
    step, prompt = split(model)
    np.testing.assert_array_equal(outputs(step, given | outputs(prompt, given))["eps"], whole)
    joined = join_conditions(step, prompt)
    assert [value.name for value in joined.graph.inputs] == ["sample", "timestep", "text"]
    np.testing.assert_array_equal(outputs(joined, given)["eps"], whole)


def test_the_model_itself_is_not_changed() -> None:
    model = net(ATTENTION)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    split(model)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_the_same_model_gives_the_same_bytes() -> None:
    parts = [split(net(ATTENTION)) for _ in range(8)]
    for same in zip(*parts, strict=True):
        assert len({ir.to_proto(it).SerializeToString(deterministic=True) for it in same}) == 1


def test_a_table_of_labels_and_the_arithmetic_of_masks_stay() -> None:
    labels = net(
        "row = Gather(table, label) shift = Unsqueeze(row, one) eps = Add(sample, shift)",
        "int64[batch] label",
        ", float[2,4] table = {1,2,3,4,5,6,7,8}",
    )
    mask = net("bias = Mul(mask, s) eps = Add(sample, bias)", "float[batch,2,1] mask")
    assert split_conditions(labels) is None and split_conditions(mask) is None


def test_what_depends_on_time_or_the_sample_too_is_a_step() -> None:
    timed = """
        f = Cast <to = 1> (timestep)
        row = Unsqueeze(f, one)
        late = Add(text, row)
        p = Gemm(late, w, b)
        shift = Unsqueeze(p, one)
        eps = Add(sample, shift)
    """
    assert split_conditions(net(timed, "float[batch,3] text")) is None
    assert split_conditions(net("m = MatMul(w, kept) eps = Add(sample, m)", "float[batch,2,4] text", KEPT)) is None


KEPT = ", float[4,4] kept = {1,0,0,0, 0,1,0,0, 0,0,1,0, 0,0,0,1}"


@pytest.mark.parametrize("axes", ["{0}", "{0, 1}"])
def test_a_value_without_rows_per_sample_is_not_handed_over(axes: str) -> None:
    size = 2 if "," in axes else 1
    body = "p = MatMul(text, w) all = ReduceSum <keepdims = 0> (p, axes) half = Mul(all, s) eps = Add(sample, half)"
    step, prompt = split(net(body, "float[batch,2,3] text", f", int64[{size}] axes = {axes}"))
    assert names(prompt.graph.outputs) == ["prompt_node_p [batch,2,4]"]
    assert [node.name for node in step.graph] == ["node_all", "node_half", "node_eps"]


def test_a_size_that_is_no_condition_s_is_not_handed_over() -> None:
    body = """
        p = MatMul(text, w)
        twice = Concat <axis = 1> (p, p)
        t = Transpose <perm = [0, 2, 1]> (twice)
        scores = MatMul(sample, t)
        eps = MatMul(scores, twice)
    """
    step, prompt = split(net(body))
    assert names(prompt.graph.outputs) == ["prompt_node_p [batch,tokens,4]"]
    given = feeds()
    whole = outputs(net(body), given)["eps"]
    np.testing.assert_array_equal(outputs(step, given | outputs(prompt, given))["eps"], whole)


def test_a_quantiser_stays_and_reads_the_float_value() -> None:
    body = """
        p = MatMul(text, w)
        codes = QuantizeLinear(p, s, zero)
        q = DequantizeLinear(codes, s, zero)
        t = Transpose <perm = [0, 2, 1]> (q)
        scores = MatMul(sample, t)
        eps = MatMul(scores, q)
    """
    _, prompt = split(net(body, constants=", uint8 zero = {128}"))
    assert names(prompt.graph.outputs) == ["prompt_node_p [batch,tokens,4]"]
    assert {node.op_type for node in prompt.graph} == {"MatMul"}


def test_a_size_is_read_from_what_is_there_anyway() -> None:
    body = """
        p = MatMul(text, w)
        t = Transpose <perm = [0, 2, 1]> (p)
        scores = MatMul(sample, t)
        tokens = Shape <start = 1, end = 2> (text)
        count = Cast <to = 1> (tokens)
        mean = Div(scores, count)
        eps = MatMul(mean, p)
    """
    step, prompt = split(net(body))
    assert [value.name for value in step.graph.inputs] == ["sample", "timestep", "prompt_node_p", "prompt_node_p_2"]
    for tokens in (1, 7):
        given = feeds(tokens)
        found = outputs(step, given | outputs(prompt, given))["eps"]
        np.testing.assert_array_equal(found, outputs(net(body), given)["eps"])


def test_a_reshape_to_minus_one_keeps_the_batch() -> None:
    body = "p = MatMul(text, w) r = Reshape(p, form) half = Mul(r, s) eps = Add(sample, half)"
    model = net(body, "float[batch,2,3] text", ", int64[3] form = {-1, 2, 4}")
    _, prompt = split(model)
    assert names(prompt.graph.outputs) == ["prompt_node_p [batch,2,4]"]
    assert [node.name for node in prompt.graph][-1] == "node_half"


def test_the_batch_of_the_sample_is_the_conditions_own() -> None:
    body = """
        p = MatMul(text, w)
        rows = Shape <start = 0, end = 1> (sample)
        tokens = Shape <start = 1, end = 2> (text)
        form = Concat <axis = 0> (rows, tokens, four)
        r = Reshape(p, form)
        t = Transpose <perm = [0, 2, 1]> (r)
        scores = MatMul(sample, t)
        eps = MatMul(scores, r)
    """
    step, prompt = split(net(body, constants=", int64[1] four = {4}"))
    assert [value.name for value in prompt.graph.inputs] == ["text"]
    assert [node.name for node in step.graph] == ["node_scores", "node_eps"]
