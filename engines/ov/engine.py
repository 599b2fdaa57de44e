"""OpenVINO on x86 CPUs: every batch size is compiled as a static graph, kept beside the run, and imported from then on.

Static shapes fuse far better than an open batch: a U-Net's elementwise operations go from a hundred fused subgraphs to
six. Floats are float32, or bfloat16 where the processor has it, which OpenVINO would choose by itself.
"""

import io
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import openvino
from numpy.typing import NDArray

from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.engines.build_cache import Identity, current, kept, verified_sha256
from ptq_export.engines.exported_layers import CALLS, WARMUP, LayerRecord
from ptq_export.engines.ov.layers import executed_layers, layer_of_nodes
from ptq_export.engines.signature import read_signature
from ptq_export.errors import InputError
from ptq_export.interface import INPUTS

__all__ = ["OpenVinoBf16Engine", "OpenVinoEngine"]

DEVICE = "CPU"
BATCHES_KEPT = 8


class OpenVinoEngine(Engine):
    """A denoiser on OpenVINO's CPU plugin. Without `options.batch` each batch size is compiled when it is first met."""

    precision = "f32"

    def __init__(
        self, source: Path, cache: Path, options: EngineOptions | None = None, sha256: str | None = None
    ) -> None:
        """Load `source` (ONNX); what is compiled of it is taken from the folder `cache` or put there.

        Raises:
            InputError: `source` is absent, is not the file with that `sha256`, is not a denoiser, or an option is
                ONNX Runtime's.
        """
        self.options = options or EngineOptions()
        if not self.options.arena:
            raise InputError("OpenVINO has no arena to switch off", "leave that option out")
        self.source, self.cache = source, cache
        self._onnx_sha256 = verified_sha256(source, sha256)
        super().__init__(read_signature(source, self.options.batch))
        self._core = openvino.Core()
        self._compiled: OrderedDict[int, tuple[openvino.CompiledModel, openvino.InferRequest]] = OrderedDict()
        self._request(self.signature.batch or 1)

    def run(
        self, sample: NDArray[np.float32], timestep: NDArray[np.int64], *label: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        feeds = dict(zip(INPUTS, (sample, timestep, *label), strict=False))
        eps: NDArray[np.float32] = self._request(len(sample)).infer(feeds, share_inputs=True)[0]
        return eps

    def executed_layers(self, expected: Mapping[str, str]) -> list[LayerRecord]:
        batch = self.signature.batch or 1
        self._request(batch)
        return executed_layers(self.source, self._compiled[batch][0].get_runtime_model(), expected)

    def layer_times_ms(self, inputs: Sequence[NDArray[Any]]) -> dict[str, float]:
        compiled = _compile(self._core, self.source, len(inputs[0]), self._settings() | {"PERF_COUNT": True})
        request = compiled.create_infer_request()
        feeds = dict(zip(INPUTS, inputs, strict=False))
        calls_ms: dict[str, list[float]] = {}
        for _ in range(WARMUP + CALLS):
            request.infer(feeds)
            for node in request.get_profiling_info():
                calls_ms.setdefault(node.node_name, []).append(node.real_time.total_seconds() * 1e3)
        times_ms: dict[str, float] = {}
        for node_name, layer in layer_of_nodes(self.source, compiled.get_runtime_model()).items():
            spent = calls_ms.get(node_name, [0.0])
            times_ms[layer] = times_ms.get(layer, 0.0) + float(np.median(spent[WARMUP:] or spent))
        return times_ms

    @staticmethod
    def run_graph(model: bytes, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        core = openvino.Core()
        graph = core.read_model(io.BytesIO(model))
        graph.reshape({name: list(value.shape) for name, value in inputs.items()})
        request = core.compile_model(graph, DEVICE, {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
        result: NDArray[np.float32] = request.infer(dict(inputs))[0]
        return result

    def _settings(self) -> dict[str, Any]:
        return {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": self.options.threads,
            "INFERENCE_PRECISION_HINT": self.precision,
        }

    def _request(self, batch: int) -> openvino.InferRequest:
        """The request of one batch size; the least recently used ones are forgotten."""
        if batch not in self._compiled:
            compiled = self._load(batch)
            self._compiled[batch] = compiled, compiled.create_infer_request()
            if len(self._compiled) > BATCHES_KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(batch)
        return self._compiled[batch][1]

    def _load(self, batch: int) -> openvino.CompiledModel:
        """The graph compiled for `batch` samples, from the cache where it stands there."""

        def build(path: Path) -> None:
            compiled = _compile(self._core, self.source, batch, self._settings())
            path.write_bytes(compiled.export_model().getvalue())

        path = self.cache / f"{self.source.stem}.{self.precision}.batch{batch}.compiled.blob"
        doing, done = f"compiling {self.source.name} for batch {batch}", f"{self.source.name} is compiled"
        blob = kept(path, self._identity(batch), build, doing, done, self, self.options.trusted)
        return self._core.import_model(blob.read_bytes(), DEVICE, self._settings())

    def _identity(self, batch: int) -> Identity:
        options = {"batch": batch, "precision": self.precision, "threads": self.options.threads}
        return current("openvino", {"openvino": openvino.__version__}, self._onnx_sha256, options)


class OpenVinoBf16Engine(OpenVinoEngine):
    """The same with bfloat16 floats."""

    precision = "bf16"


def _compile(core: openvino.Core, source: Path, batch: int, settings: Mapping[str, Any]) -> openvino.CompiledModel:
    try:
        graph = core.read_model(source)
        graph.reshape({port.any_name: [batch, *_fixed(port)] for port in graph.inputs})
        return core.compile_model(graph, DEVICE, dict(settings))
    except RuntimeError as error:
        raise InputError(f"OpenVINO cannot load {source.name}: {error}", "export it again") from error


def _fixed(port: Any) -> list[int]:
    """The sizes of an input behind its batch."""
    return [size.get_length() for size in list(port.partial_shape)[1:]]
