"""Multiplications by one and additions of zero go; whatever changes a value or a shape stays."""

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from ptq_export.graph.passes.drop_neutral import DropNeutral


def model(operator: str, constant: np.ndarray, swapped: bool = False) -> ir.Model:
    """y = sigmoid(x) `operator` constant, then Neg; x is `[N, 3, 2]`."""
    operands = ["c", "s"] if swapped else ["s", "c"]
    nodes = [
        helper.make_node("Sigmoid", ["x"], ["s"]),
        helper.make_node(operator, operands, ["m"]),
        helper.make_node("Neg", ["m"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 2])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], [numpy_helper.from_array(constant.astype(np.float32), "c")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    return ir.from_proto(onnx.shape_inference.infer_shapes(proto))


def run(graph: ir.Model) -> np.ndarray:
    session = ort.InferenceSession(ir.to_proto(graph).SerializeToString(), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {"x": np.arange(12, dtype=np.float32).reshape(2, 3, 2)})[0]
    return result


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("shape", [(), (3, 1), (1, 3, 2)])
@pytest.mark.parametrize(("operator", "value"), [("Mul", 1), ("Add", 0)])
def test_neutral_operand_goes(operator: str, value: int, shape: tuple[int, ...], swapped: bool) -> None:
    graph = model(operator, np.full(shape, value), swapped)
    expected = run(graph)
    assert DropNeutral()(graph).modified
    assert [node.op_type for node in graph.graph] == ["Sigmoid", "Neg"]
    assert np.array_equal(run(graph), expected)


@pytest.mark.parametrize(
    ("operator", "constant"),
    [
        ("Mul", np.array([[1], [1], [1.5]])),
        ("Mul", np.zeros(())),
        ("Add", np.ones(())),
        ("Mul", np.ones((2, 3, 2))),  # would fix the batch
        ("Add", np.zeros((1, 1, 3, 2))),  # would add a dimension
        ("Sub", np.zeros(())),
    ],
)
def test_anything_else_stays(operator: str, constant: np.ndarray) -> None:
    graph = model(operator, constant)
    assert not DropNeutral()(graph).modified
    assert operator in [node.op_type for node in graph.graph]
