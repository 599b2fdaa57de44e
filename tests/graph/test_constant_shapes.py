"""A Reshape whose target is computed from the batch gets a constant one."""

import numpy as np
import onnx_ir as ir
import pytest
from graph_models import noise, ops, parse, run

from ptq_export.graph.passes.constant_shapes import ConstantShapes

NET = """
<ir_version: 10, opset_import: ["": 18]>
net (float[N,4,2] sample, int64[N] timestep) => (float[N,4,2] eps) <{constants}>
{{
    t = Cast<to = 1>(timestep)
    column = Reshape(t, as_column)
    pairs = Reshape(sample, as_pairs)
    moved = Sigmoid(pairs)
    {target}
    result = Reshape(moved, target)
    eps = Identity(result)
}}
"""
CONSTANTS = "int64[2] as_column = {-1, 1}, int64[3] as_pairs = {-1, 2, 4}, int64[3] fixed = {-1, 4, 2}"


def net(target: str) -> ir.Model:
    """A Reshape back to `[N, 4, 2]` whose target is made by `target`."""
    return parse(NET.format(constants=CONSTANTS, target=target))


def test_computed_target_becomes_a_constant_with_an_open_batch() -> None:
    model = net("target = Shape(sample)")
    feeds = (noise(3, 4, 2), np.arange(3))
    before = run(model, *feeds)
    assert ConstantShapes()(model).modified
    assert "Shape" not in ops(model)
    np.testing.assert_array_equal(model.graph.initializers["shape_4_2"].const_value.numpy(), [-1, 4, 2])
    np.testing.assert_array_equal(run(model, *feeds), before)


def test_second_pass_changes_nothing() -> None:
    model = net("target = Shape(sample)")
    ConstantShapes()(model)
    assert not ConstantShapes()(model).modified


@pytest.mark.parametrize("target", ["target = Shape<end = 2>(sample)", "target = Identity(fixed)"])
def test_target_of_unknown_shape_stays(target: str) -> None:
    model = net(target)
    before = ops(model)
    assert not ConstantShapes()(model).modified
    assert ops(model) == before
