"""A group norm is recognised in every form that the exporter writes, and nothing else is taken for one."""

import onnx_ir as ir
import pytest
from graph_models import shaped

from ptq_export.engines.ort.group_norm import GroupNorm, match_group_norm

NORM = """<ir_version: 10, opset_import: ["": 18]>
net (float[N,4,2,2] x, float[N,4,1,1] scale, float[N,4,1,1] shift) => (float[N,4,2,2] y)
<int64[3] groups = {0, 2, -1}, int64[4] back = {-1, 4, 2, 2}, float[2] ones = {1, 1}, float[2] zeros = {0, 0},
 float[4,1,1] gamma = {1, 2, 3, 4}, float[4,1,1] beta = {5, 6, 7, 8}, float half = {0.5}>
{ apart = Reshape(x, groups) norm = InstanceNormalization<epsilon = 0.001>(apart, ones, zeros)
  n = Reshape(norm, back) END }"""


def matched(end: str) -> GroupNorm | None:
    model: ir.Model = shaped(NORM.replace("END", end))
    return match_group_norm(model.graph.outputs[0])


def constants(value: ir.Value | None) -> list[float]:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    assert tensor is not None
    return [float(number) for number in tensor.numpy().reshape(-1)]


def test_a_bare_norm() -> None:
    norm = matched("y = Reshape(norm, back)")
    assert norm is not None and norm.source.name == "x" and norm.groups == 2 and not norm.silu
    assert norm.gamma is None and norm.beta is None
    assert norm.epsilon == pytest.approx(1e-3)


def test_an_affine_norm_with_a_silu() -> None:
    norm = matched("a = Mul(n, gamma) b = Add(beta, a) s = Sigmoid(b) y = Mul(b, s)")
    assert norm is not None and norm.silu and norm.source.name == "x"
    assert constants(norm.gamma) == [1, 2, 3, 4] and constants(norm.beta) == [5, 6, 7, 8]


def test_scale_and_shift_of_the_time_embedding() -> None:
    norm = matched("a = Mul(n, scale) y = Add(a, shift)")
    assert norm is not None and norm.gamma is not None and norm.beta is not None
    assert (norm.gamma.name, norm.beta.name) == ("scale", "shift")


@pytest.mark.parametrize(
    "end",
    [
        "y = Relu(n)",
        "a = Add(n, beta) y = Mul(a, gamma)",  # an affine the other way round
        "a = Mul(n, gamma) s = Sigmoid(n) y = Mul(a, s)",  # a gate, not a SiLU
        "y = Add(n, x)",  # a residual
    ],
)
def test_what_is_no_group_norm(end: str) -> None:
    assert matched(end) is None


def test_a_norm_with_an_affine_of_its_own_is_left_alone() -> None:
    model = shaped(NORM.replace("END", "y = Reshape(norm, back)").replace("ones = {1, 1}", "ones = {1, 2}"))
    assert match_group_norm(model.graph.outputs[0]) is None
