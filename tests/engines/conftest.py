"""A denoiser by hand, `eps = conv(sample) + table[timestep]`, as an ONNX file and in numpy."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from exported_net import inputs_of
from onnx import TensorProto, helper, numpy_helper

from ptq_export.interface import inputs_to_json

Write = Callable[..., Path]
STEPS = 10


def save(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], batch: int | str) -> Path:
    """A denoiser `[batch, 2, 4, 4]` made of nodes, with its T in the metadata."""
    sample = helper.make_tensor_value_info("sample", TensorProto.FLOAT, [batch, 2, 4, 4])
    timestep = helper.make_tensor_value_info("timestep", TensorProto.INT64, [batch])
    eps = helper.make_tensor_value_info("eps", TensorProto.FLOAT, [batch, 2, 4, 4])
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "denoiser", [sample, timestep], [eps], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    inputs = json.dumps(inputs_to_json(inputs_of((2, 4, 4))))
    helper.set_model_props(model, {"num_train_timesteps": str(STEPS), "inputs": inputs})
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    """The 1x1 convolution `[2, 2, 1, 1]` and the time table `[T, 2]` of `denoiser_onnx`."""
    rng = np.random.default_rng(0)
    shapes = {"stem.weight": (2, 2, 1, 1), "table": (STEPS, 2)}
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.fixture
def denoiser_onnx(tmp_path: Path, weights: dict[str, np.ndarray]) -> Write:
    """Writes the tiny denoiser with a dynamic or a fixed batch; returns the ONNX file."""

    def write(name: str = "denoiser.fp32.onnx", batch: int | str = "N") -> Path:
        nodes = [
            helper.make_node("Conv", ["sample", "stem.weight"], ["hidden"], name="stem"),
            helper.make_node("Gather", ["table", "timestep"], ["row"]),
            helper.make_node("Unsqueeze", ["row", "axes"], ["shift"]),
            helper.make_node("Add", ["hidden", "shift"], ["eps"]),
        ]
        return save(tmp_path / name, nodes, weights | {"axes": np.array([2, 3])}, batch)

    return write


@pytest.fixture
def reference(weights: dict[str, np.ndarray]) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """What the tiny denoiser computes."""

    def eps(sample: np.ndarray, timestep: np.ndarray) -> np.ndarray:
        mixed = np.einsum("oi,nihw->nohw", weights["stem.weight"][:, :, 0, 0], sample)
        return mixed + weights["table"][timestep][:, :, None, None]

    return eps
