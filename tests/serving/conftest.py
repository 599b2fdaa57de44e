"""A conditional denoiser by hand on ONNX Runtime, and a service of it on a real socket."""

import asyncio
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import uvicorn
from caller import Caller, Start
from exported_net import inputs_of
from onnx import TensorProto, helper, numpy_helper

from ptq_export.clean_estimate import CleanEstimate
from ptq_export.command_options import Serving
from ptq_export.denoiser import NoiseSchedule
from ptq_export.engines.base import Engine
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.interface import Input, inputs_to_json, label
from ptq_export.serving.app import make_app
from ptq_export.serving.batcher import Batcher, measured_times
from ptq_export.serving.metrics import Metrics
from ptq_export.serving.model import Model
from ptq_export.serving.protocol import BoundedHeads
from ptq_export.serving.request import Subject
from ptq_export.serving.service import Service

INPUTS = inputs_of((2, 4, 4), label(3), Input("tokens", "float32", ("length", 3)))


def nodes() -> list[onnx.NodeProto]:
    """eps = conv(sample) + table[timestep] + classes[label] + mean(tokens W)."""
    return [
        helper.make_node("Conv", ["sample", "weight"], ["hidden"]),
        helper.make_node("Gather", ["table", "timestep"], ["time"]),
        helper.make_node("Gather", ["classes", "label"], ["class"]),
        helper.make_node("MatMul", ["tokens", "project"], ["read"]),
        helper.make_node("ReduceMean", ["read", "one"], ["text"], keepdims=0),
        helper.make_node("Add", ["time", "class"], ["both"]),
        helper.make_node("Add", ["both", "text"], ["all"]),
        helper.make_node("Unsqueeze", ["all", "sides"], ["shift"]),
        helper.make_node("Add", ["hidden", "shift"], ["eps"]),
    ]


@pytest.fixture(scope="session")
def conditional_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    shapes = {"weight": (2, 2, 1, 1), "table": (1000, 2), "classes": (3, 2), "project": (3, 2)}
    constants = {name: 0.3 * rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    constants |= {"one": np.array([1]), "sides": np.array([2, 3])}
    types = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64}
    given = [helper.make_tensor_value_info(it.name, types[it.dtype], ["N", *it.shape]) for it in INPUTS]
    eps = helper.make_tensor_value_info("eps", TensorProto.FLOAT, ["N", 2, 4, 4])
    kept = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes(), "denoiser", given, [eps], kept)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, {"num_train_timesteps": "1000", "inputs": json.dumps(inputs_to_json(INPUTS))})
    onnx.checker.check_model(model)
    path = tmp_path_factory.mktemp("conditional") / "denoiser.onnx"
    onnx.save(model, path)
    return path


@pytest.fixture(scope="session")
def engine(conditional_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    return OrtEngine(conditional_onnx, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def slow_engine(conditional_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """The same, each step 20 ms, whatever its batch."""

    class Slow(OrtEngine):
        def run(self, feeds: dict[str, np.ndarray]) -> np.ndarray:
            threading.Event().wait(0.02)
            return super().run(feeds)

    return Slow(conditional_onnx, tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def subject(engine: Engine) -> Subject:
    return Subject(engine.signature, NoiseSchedule())


@pytest.fixture
def start(subject: Subject) -> Iterator[Start]:
    """Starts a service of an engine; returns it with a caller. It ends with the test."""
    running: list[tuple[uvicorn.Server, threading.Thread]] = []

    def begin(engine: Engine, **limits: float) -> tuple[Service, Caller]:
        service = Service(Serving(**{"max_batch": 8, "timeout": 30.0, **limits}), Metrics())
        times = measured_times(engine, 8)
        batcher = Batcher(engine, subject.schedule, times, 8, service.serving.queue)
        batcher.observer = service.metrics.watch("tiny", lambda: batcher.waiting, lambda: batcher.running)
        service.models = {
            "tiny": Model("tiny", "ort-fp32", subject, batcher, (-1.0, 1.0), CleanEstimate(subject.schedule))
        }
        config = uvicorn.Config(make_app(service), port=0, http=BoundedHeads, lifespan="off", log_config=None)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve()))
        thread.start()
        running.append((server, thread))
        while not server.started:
            threading.Event().wait(0.01)
        return service, Caller(server.servers[0].sockets[0].getsockname()[1])

    yield begin
    for server, _ in running:
        server.should_exit = True
    for _, thread in running:
        thread.join()
