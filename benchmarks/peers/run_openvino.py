"""Models on OpenVINO's CPU plugin, ours (ONNX) and the peers' (ONNX or IR) alike, with the settings of our engine."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptq_export.benchmarks.peers.runtimes import Feeds, Opened
from ptq_export.benchmarks.peers.subject import Subject

__all__ = ["open_openvino"]

DEVICE = "CPU"
LAYERS = frozenset({"Convolution", "Deconvolution", "FullyConnected"})
INT8 = frozenset({"u8", "i8"})


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

    def call(feeds: Feeds) -> NDArray[Any]:
        eps: NDArray[np.float32] = request.infer(dict(feeds), share_inputs=True)[0]
        return eps

    return Opened(call, _int8_kernels(compiled.get_runtime_model()))


def _int8_kernels(runtime_model: Any) -> int:
    """How many convs and linears OpenVINO computes in int8: by kernel, since a peer's graph need not keep our names."""
    facts = [node.get_rt_info() for node in runtime_model.get_ordered_ops()]
    return sum(_text(it["layerType"]) in LAYERS and _text(it["runtimePrecision"]) in INT8 for it in facts)


def _text(value: Any) -> str:
    return str(value.astype(str)) if hasattr(value, "astype") else str(value)


def _fixed(port: Any) -> list[int]:
    return [size.get_length() for size in list(port.partial_shape)[1:]]
