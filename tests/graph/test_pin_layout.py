"""PinLayout: a Reshape behind per-channel dequantisers of activations, and nowhere else."""

import numpy as np
import onnx.parser
import onnx_ir as ir
import onnxruntime

from ptq_export.graph.passes.pin_layout import PinLayout

PER_CHANNEL = """<ir_version: 10, opset_import: ["": 18]>
net (uint8[N,2,2,2] x) => (float[N,2,2,2] y)
<float[2] s = {0.5, 2}, uint8[2] z = {1, 2}> { d = DequantizeLinear<axis = 1>(x, s, z) y = Neg(d) }"""


def parse(text: str) -> ir.Model:
    model = onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text))
    return ir.from_proto(model)


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": x})[0]
    return result


def test_a_per_channel_dequantiser_is_pinned_and_computes_the_same() -> None:
    plain, pinned = parse(PER_CHANNEL), parse(PER_CHANNEL)
    assert PinLayout()(pinned).modified
    assert [node.op_type for node in pinned.graph] == ["DequantizeLinear", "Reshape", "Neg"]
    x = np.arange(24, dtype=np.uint8).reshape(3, 2, 2, 2)
    np.testing.assert_array_equal(run(pinned, x), run(plain, x))


def test_a_pinned_graph_is_left_alone() -> None:
    model = parse(PER_CHANNEL)
    PinLayout()(model)
    assert not PinLayout()(model).modified


def test_a_scalar_grid_is_left_alone() -> None:
    text = PER_CHANNEL.replace("float[2] s = {0.5, 2}, uint8[2] z = {1, 2}", "float s = {0.5}, uint8 z = {1}")
    model = parse(text.replace("<axis = 1>", ""))
    assert not PinLayout()(model).modified
