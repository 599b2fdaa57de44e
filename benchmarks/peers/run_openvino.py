"""Models on OpenVINO's CPU plugin, ours (ONNX) and the peers' (ONNX or IR) alike, with the settings of our engine."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptq_export.benchmarks.peers.runtimes import Opened
from ptq_export.benchmarks.peers.subject import Subject
from ptq_export.engines.ov_layers import executed_layers
from ptq_export.interface import INPUTS

__all__ = ["open_openvino"]

DEVICE = "CPU"


def open_openvino(subject: Subject, file: Path | None, cache: Path, batch: int, threads: int, precision: str) -> Opened:
    """The model compiled for `batch` samples, floats in `precision` ("f32", "bf16"); nothing is kept in `cache`."""
    import openvino

    model = openvino.Core().read_model(file or subject.graph)
    model.reshape({port.any_name: [batch, *_fixed(port)] for port in model.inputs})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = openvino.Core().compile_model(model, DEVICE, settings)
    request = compiled.create_infer_request()

    def call(*inputs: NDArray[Any]) -> NDArray[Any]:
        eps: NDArray[np.float32] = request.infer(dict(zip(INPUTS, inputs, strict=False)), share_inputs=True)[0]
        return eps

    # The FP32 graph names the layers of the peers' models, too.
    rows = executed_layers(subject.graph, compiled.get_runtime_model(), {})
    return Opened(call, sum(row.precision == "int8" for row in rows))


def _fixed(port: Any) -> list[int]:
    return [size.get_length() for size in list(port.partial_shape)[1:]]
