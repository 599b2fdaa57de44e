"""TransposeKeys: the exporter's three nodes become one, whatever else looks like them stays."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from exported_net import exported
from graph_models import model_bytes, noise, ops, shaped
from torch import Tensor, nn
from torch.nn import functional

from ptq_export.graph.passes.constant_shapes import ConstantShapes
from ptq_export.graph.passes.transpose_keys import TransposeKeys

THREE = """<ir_version: 10, opset_import: ["": 18]>
net (float[N,2,3,4] x) => (float[N,2,4,3] y)
<int64[3] flat = {-1, 3, 4}, int64[2] rest = {4, 3}>
{ apart = Reshape(x, flat) turned = Transpose<perm = [0, 2, 1]>(apart)
  images = Shape<start = 0, end = 2>(x) target = Concat<axis = 0>(images, rest) y = Reshape(turned, target) }"""


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model_bytes(model), providers=["CPUExecutionProvider"])
    result: np.ndarray = session.run(None, {model.graph.inputs[0].name: x})[0]
    return result


def test_three_nodes_become_one_transpose_of_the_same_numbers() -> None:
    model = shaped(THREE)
    assert TransposeKeys()(model).modified
    assert ops(model) == ["Transpose"]
    np.testing.assert_array_equal(run(model, noise(5, 2, 3, 4)), run(shaped(THREE), noise(5, 2, 3, 4)))


def test_another_target_is_left_alone() -> None:
    assert not TransposeKeys()(shaped(THREE.replace("rest = {4, 3}", "rest = {2, 6}"))).modified


def test_another_permutation_is_left_alone() -> None:
    text = THREE.replace("perm = [0, 2, 1]", "perm = [2, 1, 0]")
    assert not TransposeKeys()(shaped(text)).modified


class Attention(nn.Module):
    """Tokens that attend to each other, two heads."""

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        tokens = sample.flatten(2).unflatten(1, (2, -1)).transpose(2, 3)
        return functional.scaled_dot_product_attention(tokens, tokens, tokens).transpose(2, 3).reshape(sample.shape)


def test_the_exporters_attention_computes_no_shapes_any_more() -> None:
    model = exported(Attention(), (6, 4, 4))
    ConstantShapes()(model)
    plain = model.clone()
    assert "Shape" in ops(model)
    assert TransposeKeys()(model).modified
    assert "Shape" not in ops(model)
    feeds = {"sample": noise(3, 6, 4, 4), "timestep": np.zeros(3, np.int64)}
    used = {value.name: feeds[value.name] for value in model.graph.inputs if value.name in feeds}
    results = [
        onnxruntime.InferenceSession(model_bytes(graph), providers=["CPUExecutionProvider"]).run(None, used)[0]
        for graph in (model, plain)
    ]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        torch.from_numpy(results[0]),
        Attention()(torch.from_numpy(feeds["sample"]), torch.zeros(3)),
        rtol=1e-4,
        atol=1e-5,
    )
