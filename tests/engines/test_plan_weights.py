"""Int8 weights are found in a real plan as int8, dequantised ones as float16, and weights of another net not at all."""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from convolutions import SIZE, Stack, quantised
from exported_net import exported

from ptq_export.engines.trt.plan import RTX, make_plan
from ptq_export.engines.trt.plan_weights import StoredWeights, stored_weights
from ptq_export.graph.model_file import save_model
from ptq_export.graph.passes.half_precision import HalfPrecision
from ptq_export.nn.scheme import TENSORRT

WIDTH, DEPTH = 64, 3
COUNT = DEPTH * 9 * WIDTH * WIDTH
with_rtx = pytest.mark.skipif(find_spec(RTX) is None, reason="TensorRT for RTX has no package for this platform")


def int8_graph() -> ir.Model:
    graph = exported(quantised(Stack(WIDTH, DEPTH), TENSORRT), (WIDTH, SIZE, SIZE))
    return HalfPrecision()(graph).model


def dequantised(graph: ir.Model) -> ir.Model:
    """The graph with its weights in float16, activations still int8."""
    graph = graph.clone()
    for node in list(graph.graph):
        codes, scale = node.inputs[0].const_value, node.inputs[1].const_value if len(node.inputs) > 1 else None
        if node.op_type == "DequantizeLinear" and codes is not None and scale is not None:
            steps = scale.numpy().astype(np.float32).reshape(-1, 1, 1, 1)
            name = f"{node.outputs[0].name}_float"
            weight = ir.val(name, const_value=ir.tensor((codes.numpy() * steps).astype(np.float16), name=name))
            graph.graph.register_initializer(weight)
            node.outputs[0].replace_all_uses_with(weight)
            graph.graph.remove(node, safe=True)
    return graph


def plan_of(graph: ir.Model, folder: Path) -> bytes:
    save_model(graph, folder / "net.onnx")
    make_plan(RTX, folder / "net.onnx", folder / "net.plan", (1, 2, 4), graph)
    return (folder / "net.plan").read_bytes()


@with_rtx
def test_every_int8_weight_lies_in_its_plan_as_one_byte(tmp_path: Path) -> None:
    graph = int8_graph()
    found = stored_weights(graph, plan_of(graph, tmp_path))
    assert found == StoredWeights(COUNT, COUNT, 0) and found.bytes_per_weight == 1.0


@with_rtx
def test_weights_that_the_plan_has_in_float16_take_two_bytes(tmp_path: Path) -> None:
    graph = int8_graph()
    found = stored_weights(graph, plan_of(dequantised(graph), tmp_path))
    assert found == StoredWeights(COUNT, 0, COUNT) and found.bytes_per_weight == 2.0


def test_a_plan_without_them_has_none() -> None:
    found = stored_weights(int8_graph(), bytes(COUNT))
    assert found.to_json() == {"count": COUNT, "as_int8": 0, "as_float16": 0, "bytes_per_weight": None}


@pytest.mark.parametrize("layout", ["as it is", "channels last", "rows of a merged matrix"])
def test_the_layouts_of_the_builder_are_known(layout: str) -> None:
    graph = int8_graph()
    weights = [node.inputs[0].const_value for node in graph.graph if node.op_type == "DequantizeLinear"]
    codes = [value.numpy() for value in weights if value is not None]
    parts = {
        "as it is": codes,
        "channels last": [each.transpose(0, 2, 3, 1) for each in codes],
        "rows of a merged matrix": [np.concatenate([each.reshape(WIDTH, -1).T for each in codes], axis=1)],
    }[layout]
    plan = b"head" + b"between".join(part.tobytes() for part in parts)
    assert stored_weights(graph, plan) == StoredWeights(COUNT, COUNT, 0)
