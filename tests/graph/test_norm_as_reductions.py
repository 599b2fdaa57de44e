"""An instance norm as reductions: ONNX Runtime's own operator is what it is compared with."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_models import parse, run

from ptq_export.engines.trt.build_plan import FLOAT32
from ptq_export.errors import GateFailed
from ptq_export.graph.passes.norm_as_reductions import IN_FLOAT32, norm_as_reductions

T = np.zeros(2, np.int64)
NET = """
<ir_version: 8, opset_import: ["": 17]>
net (float[N,{shape}] sample, int64[N] timestep) => (float[N,{shape}] eps)
<float[3] scale = {{{scale}}}, float[3] bias = {{{bias}}}>
{{
    eps = InstanceNormalization<epsilon = {epsilon}>(sample, scale, bias)
}}
"""


def model(shape: str = "3,4,5", scale: str = "1, 1, 1", bias: str = "0, 0, 0", epsilon: float = 1e-5) -> ir.Model:
    return parse(NET.format(shape=shape, scale=scale, bias=bias, epsilon=epsilon))


def reduced(whole: ir.Model) -> ir.Model:
    copy = whole.clone()
    norm_as_reductions(copy.graph, next(iter(copy.graph)))
    onnx.checker.check_model(ir.to_proto(copy), full_check=True)
    return copy


@pytest.mark.parametrize(
    ("given", "operators"),
    [
        ({"shape": "3,7"}, 7),
        ({"shape": "3,4,5", "scale": "2, -1, 0.5"}, 8),
        ({"shape": "3,4,5", "bias": "0, 1, 0", "epsilon": 0.5}, 8),
        ({"shape": "3,2,2,3", "scale": "0, 1, 1", "bias": "3, 0, 0"}, 9),
    ],
    ids=["neutral affine, rank 3", "scale", "bias, large epsilon", "both, rank 5"],
)
def test_it_computes_what_the_operator_computes(given: dict[str, str], operators: int) -> None:
    whole = model(**given)
    parts = reduced(whole)
    sizes = [int(size) for size in given["shape"].split(",")]
    sample = np.random.default_rng(0).standard_normal((2, *sizes)).astype(np.float32)
    np.testing.assert_allclose(run(parts, sample, T), run(whole, sample, T), rtol=0, atol=2e-6)
    far = sample + np.float32(1000)  # a large mean over a small spread: nearer to the truth than the operator itself
    errors = [np.abs(run(each, far, T) - run(whole, far - np.float32(1000), T)).max() for each in (parts, whole)]
    assert errors[0] <= errors[1] + 1e-6
    assert len(list(parts.graph)) == operators


def test_a_constant_channel_is_divided_by_the_root_of_epsilon_and_not_by_zero() -> None:
    flat = np.full((2, 3, 4, 5), 7, np.float32)
    assert not run(reduced(model()), flat, T).any()


def test_its_nodes_ask_a_weakly_typed_builder_for_float32() -> None:
    assert IN_FLOAT32 == FLOAT32 and all(FLOAT32 in (node.name or "") for node in reduced(model()).graph)


def test_a_computed_scale_is_refused_by_name() -> None:
    text = NET.replace("(sample, scale, bias)", "(sample, twice, bias)")
    text = text.replace("    eps =", "    twice = Add(scale, scale)\n    eps =")
    computed = parse(text.format(shape="3,7", scale="1, 1, 1", bias="0, 0, 0", epsilon=1e-5))
    with pytest.raises(GateFailed, match="node_eps: an instance norm"):
        norm_as_reductions(computed.graph, list(computed.graph)[-1])
