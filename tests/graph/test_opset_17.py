"""A graph in opset 17: valid, the same results, the module paths kept; what has no older form is named."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graph_models import noise, parse, run, unet

from ptq_export.errors import GateFailed
from ptq_export.graph.passes.opset_17 import Opset17
from ptq_export.graph.scopes import module_path

NET = """
<ir_version: 10, opset_import: ["": 18]>
net (float[N,4,2,2] sample, int64[N] timestep) => (float[N,4,4,4] eps)
<float[4] scales = {{1, 1, 2, 2}}, int64[2] halves = {{2, 2}}, int64[1] axes = {{1}},
 int64[1] open = {{-1}}, int64[2] square = {{2, 2}}>
{{
    {middle}
    t = Cast<to = 1>(timestep)
    larger = Resize<mode = "nearest", nearest_mode = "floor", coordinate_transformation_mode = "asymmetric",
        antialias = 0, keep_aspect_ratio_policy = "stretch">(changed, , scales)
    eps = Identity(larger)
}}
"""
CHANGES = {
    "split by sizes": "a, b = Split<axis = 1>(sample, halves) changed = Concat<axis = 1>(b, a)",
    "split in halves": "a, b = Split<axis = 1, num_outputs = 2>(sample) changed = Concat<axis = 1>(b, a)",
    "last dimensions": "s = Shape<start = 1>(sample) u = Concat<axis = 0>(open, s) changed = Reshape(sample, u)",
    "first dimensions": "s = Shape<end = 2>(sample) u = Concat<axis = 0>(s, square) changed = Reshape(sample, u)",
    "whole shape": "s = Shape<start = 0>(sample) changed = Reshape(sample, s)",
}


@pytest.mark.parametrize("middle", CHANGES.values(), ids=CHANGES.keys())
def test_the_older_graph_is_valid_and_computes_the_same(middle: str) -> None:
    model = parse(NET.format(middle=middle))
    older = Opset17()(model).model
    assert (older.opset_imports[""], older.ir_version, model.opset_imports[""]) == (17, 8, 18)
    onnx.checker.check_model(ir.to_proto(older), full_check=True)
    feeds = (noise(3, 4, 2, 2), np.arange(3))
    np.testing.assert_array_equal(run(older, *feeds), run(model, *feeds))


def test_an_exported_unet_keeps_its_results_and_module_paths() -> None:
    model = unet()
    older = Opset17()(model).model
    onnx.checker.check_model(ir.to_proto(older), full_check=True)
    assert {module_path(node) for node in older.graph} == {module_path(node) for node in model.graph}
    assert not any(node.op_type == "Shape" and node.attributes for node in older.graph)
    assert "InstanceNormalization" not in {node.op_type for node in older.graph}, "TensorRT 8.5 makes a plugin of it"
    feeds = (noise(3, 1, 8, 8), np.arange(3))
    np.testing.assert_allclose(run(older, *feeds), run(model, *feeds), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("middle", "message"),
    [
        (
            "a, b = Split<axis = 1, num_outputs = 3>(sample) changed = Concat<axis = 1>(b, a)",
            "Split with num_outputs=3",
        ),
        ("changed = ReduceMax(sample, axes)", "ReduceMax of opset 18"),
        ("changed = LayerNormalization(sample, scales)", "TensorRT 8.5 has no LayerNormalization"),
    ],
)
def test_what_has_no_older_form_is_named(middle: str, message: str) -> None:
    with pytest.raises(GateFailed, match=message):
        Opset17()(parse(NET.format(middle=middle)))


def test_another_opset_is_refused() -> None:
    model = parse(NET.format(middle="changed = Identity(sample)"))
    model.opset_imports[""] = 20
    with pytest.raises(GateFailed, match="opset 20, not 18"):
        Opset17()(model)
