"""Int8 weights as floats on their grid: the engine's own rounding gives back every learned code."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graph_models import noise, ops, parse, run
from onnx import helper

from ptq_export.errors import GateFailed
from ptq_export.graph.passes.requantise_weights import RequantiseWeights, prove_codes

NET = """
<ir_version: 8, opset_import: ["": 17]>
net (float[N,2,4,4] sample, int64[N] timestep) => (float[N,3,4,4] eps)
<int8[3,2,1,1] codes = {127, -127, 1, 0, -128, 64}, float[3] scale = {0.003, 0.7, 0.000061}, int8[3] zeros = {0, 0, 0},
 float step = {0.05}, int8 zero = {ZERO}>
{
    t = Cast<to = 1>(timestep)
    q = QuantizeLinear(sample, step, zero)
    x = DequantizeLinear(q, step, zero)
    w = DequantizeLinear<axis = 0>(codes, scale, zeros)
    eps = Conv(x, w)
}
"""


def net() -> ir.Model:
    return parse(NET.replace("ZERO", "0"))


def computed_codes(model: ir.Model) -> np.ndarray:
    """What ONNX Runtime's QuantizeLinear makes of the weights, nothing being folded."""
    proto = ir.to_proto(model)
    (name,) = [node.output[0] for node in proto.graph.node if node.input[0] == "codes_on_grid"]
    proto.graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.INT8, None))
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = {"sample": noise(1, 2, 4, 4), "timestep": np.zeros(1, np.int64)}
    return np.asarray(session.run([name], feeds)[0])


def test_weights_become_floats_whose_codes_are_the_stored_ones() -> None:
    model = net()
    codes = model.graph.initializers["codes"].const_value.numpy()
    assert RequantiseWeights()(model).modified
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert "codes" not in model.graph.initializers and ops(model).count("QuantizeLinear") == 2
    assert model.graph.initializers["codes_on_grid"].dtype == ir.DataType.FLOAT
    np.testing.assert_array_equal(computed_codes(model), codes)


def test_the_results_are_the_same_to_the_bit() -> None:
    model, changed = net(), net()
    RequantiseWeights()(changed)
    feeds = (noise(2, 2, 4, 4), np.arange(2))
    np.testing.assert_array_equal(run(changed, *feeds), run(model, *feeds))


def test_a_second_pass_changes_nothing() -> None:
    model = net()
    RequantiseWeights()(model)
    before = ops(model)
    assert not RequantiseWeights()(model).modified and ops(model) == before


def test_codes_around_another_zero_point_stay() -> None:
    model = net()
    model.graph.initializers["zeros"].const_value = ir.tensor(np.ones(3, np.int8), name="zeros")
    assert not RequantiseWeights()(model).modified


def test_every_code_survives_every_scale_that_float16_holds() -> None:
    """The proof runs inside the pass: 255 codes by each normal float16 down to the floor of a weight's scale."""
    scales = np.arange(np.float16(2**-14).view(np.uint16), np.float16(4).view(np.uint16), 7, np.uint16)
    scale = scales.view(np.float16).astype(np.float32)
    codes = np.broadcast_to(np.arange(-128, 128, dtype=np.int8), (len(scale), 256))
    steps = scale[:, None]
    prove_codes((codes * steps).astype(np.float32), steps, codes, "all")


def test_codes_that_would_change_are_told() -> None:
    codes = np.array([[3, 4]], np.int8)
    values = np.array([[0.3, 0.46]], np.float32)
    with pytest.raises(GateFailed, match="w: 1 codes change"):
        prove_codes(values, np.float32([[0.1]]), codes, "w")
