"""Quantisers before a nearest Resize: the same numbers bit for bit, in both floats; what cannot move stays."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnxruntime import InferenceSession

from ptq_export.engines.trt.rules import lint
from ptq_export.graph.passes.half_precision import HalfPrecision
from ptq_export.graph.passes.quantise_before_resize import QuantiseBeforeResize

HEAD = '<ir_version: 10, opset_import: ["" : 20]>\ng (float[N,16,4,4] x) => (float[N,16,H,W] y)'
MODE = 'mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"'
RESIZE = f"r = Resize <{MODE}> (x, none, larger)  "
LAYER = "q = QuantizeLinear (r, s, z)  d = DequantizeLinear (q, s, z)  k = DequantizeLinear <axis = 0> (w, ws, wz)  "
BODY = f"{RESIZE}{LAYER}y = Conv <pads = [1, 1, 1, 1]> (d, k)"


def model(body: str = BODY) -> ir.Model:
    rng = np.random.default_rng(0)
    constants = {
        "larger": np.array([1, 1, 2, 2], np.float32),
        "none": np.zeros(0, np.float32),
        "s": np.float32(0.0213),
        "s2": np.float32(0.03),
        "z": np.int8(0),
        "w": rng.integers(-127, 128, (16, 16, 3, 3)).astype(np.int8),
        "ws": rng.uniform(0.001, 0.01, 16).astype(np.float32),
        "wz": np.zeros(16, np.int8),
    }
    used = [
        ir.tensor(value, name=name) for name, value in constants.items() if f"{name})" in body or f"{name}," in body
    ]
    graph = ir.from_onnx_text(f"{HEAD} {{ {body} }}", initializers=used)
    for node in graph.graph:
        node.name = f"node_{node.outputs[0].name}"
    return ir.from_proto(onnx.shape_inference.infer_shapes(ir.to_proto(graph)))


def result(graph: ir.Model) -> np.ndarray:
    onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    x = 2 * np.random.default_rng(1).standard_normal((2, 16, 4, 4)).astype(np.float32)
    y: np.ndarray = InferenceSession(ir.to_proto(graph).SerializeToString()).run(None, {"x": x})[0]
    return y


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_the_result_is_the_same_bit_for_bit(half: bool) -> None:
    before, after = model(), model()
    assert QuantiseBeforeResize()(after).modified and not QuantiseBeforeResize()(after).modified
    if half:
        before, after = (HalfPrecision()(graph).model for graph in (before, after))
    np.testing.assert_array_equal(result(after), result(before))
    resize = next(node for node in after.graph if node.op_type == "Resize")
    assert resize.inputs[0].producer().op_type == "DequantizeLinear"
    assert [use.node.op_type for use in resize.outputs[0].uses()] == ["QuantizeLinear"]


def test_no_code_is_moved_by_a_second_rounding_in_float16() -> None:
    codes = np.arange(-128, 128, dtype=np.float64)
    for scale in np.random.default_rng(0).uniform(2**-14, 8, 500).astype(np.float16):
        values = (codes * np.float64(scale)).astype(np.float16)
        assert np.array_equal(np.round(values.astype(np.float64) / np.float64(scale)), codes)


@pytest.mark.parametrize(
    "body",
    [
        BODY.replace(MODE, 'mode = "linear"'),
        f"{RESIZE}{LAYER}c = Conv <pads = [1, 1, 1, 1]> (d, k)  y = Add (c, r)",
        f"{RESIZE}{LAYER}q2 = QuantizeLinear (r, s2, z)  d2 = DequantizeLinear (q2, s2, z)  y = Add (d, d2)",
        f"{RESIZE}y = Relu (r)",
    ],
    ids=["interpolated", "read by a float node too", "two grids", "not quantised"],
)
def test_what_is_on_no_single_grid_stays(body: str) -> None:
    assert not QuantiseBeforeResize()(model(body)).modified


def test_tensorrt_s_rules_are_kept_and_a_resize_between_two_grids_is_told() -> None:
    moved = model()
    QuantiseBeforeResize()(moved)
    assert lint(HalfPrecision()(moved).model) == []
