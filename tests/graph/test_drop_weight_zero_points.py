"""A zero point of 0 on weights goes, and nothing else does."""

import onnx_ir as ir
import pytest
from graph_models import parse

from ptq_export.graph.passes.drop_weight_zero_points import DropWeightZeroPoints

NET = """
<ir_version: 10, opset_import: ["": 18]>
net (float[N,2] x) => (float[N,2] y)
<float s = {0.5}, uint8 z = {128}, int8[2,2] w = {1, 2, 3, 4}, float[2] ws = {0.1, 0.2}, int8[2] wz = {ZERO}>
{
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    v = DequantizeLinear<axis = 0>(w, ws, wz)
    y = Gemm(d, v)
}
"""


def inputs(model: ir.Model) -> dict[str, list[str]]:
    return {
        str(node.outputs[0].name): [str(value.name) for value in node.inputs if value is not None]
        for node in model.graph
    }


def test_zeros_on_weights_go_and_an_activations_stay() -> None:
    model = parse(NET.replace("ZERO", "0, 0"))
    assert DropWeightZeroPoints()(model).modified
    found = inputs(model)
    assert found["v"] == ["w", "ws"] and found["d"] == ["q", "s", "z"]
    assert "wz" not in model.graph.initializers
    assert not DropWeightZeroPoints()(model).modified


@pytest.mark.parametrize("zero", ["0, 1", "-3, -3"])
def test_another_zero_point_stays(zero: str) -> None:
    model = parse(NET.replace("ZERO", zero))
    assert not DropWeightZeroPoints()(model).modified
    assert inputs(model)["v"] == ["w", "ws", "wz"]
