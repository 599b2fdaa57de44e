"""ONNX Runtime on the CPU: the graph is optimised once, kept beside the run, and loaded as it is from then on."""

import logging
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ptq_export.artifacts import atomic_path
from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.engines.identity import Identity, current, stale_reasons, verified_sha256, writable, write_identity
from ptq_export.engines.layers import LayerRecord
from ptq_export.engines.ort_layers import executed_layers, layer_of_nodes
from ptq_export.engines.ort_profile import node_times_ms
from ptq_export.engines.signature import read_signature
from ptq_export.errors import InputError
from ptq_export.interface import INPUTS

__all__ = ["OrtEngine"]

logger = logging.getLogger(__name__)
ERRORS_ONLY = 3
Level = onnxruntime.GraphOptimizationLevel


class OrtEngine(Engine):
    """A denoiser on ONNX Runtime's CPU execution provider.

    `optimised_path` is the graph that runs: read it to see what became of each layer (`ort_layers`).
    """

    def __init__(
        self, source: Path, cache: Path, options: EngineOptions | None = None, sha256: str | None = None
    ) -> None:
        """Load `source` (ONNX), optimised; the optimised graph is taken from the folder `cache` or put there.

        Raises:
            InputError: `source` is absent, is not the file with that `sha256`, or is not a denoiser.
        """
        self.options = options or EngineOptions()
        self.source = source
        identity = _identity(verified_sha256(source, sha256), self.options)
        super().__init__(read_signature(source, self.options.batch))
        batch = "" if self.options.batch is None else f".batch{self.options.batch}"
        self.optimised_path = cache / f"{source.stem}{batch}.optimised.onnx"
        reasons = stale_reasons(self.optimised_path, identity)
        if reasons:
            logger.info("optimising %s: %s", source.name, "; ".join(reasons))
            if not writable(cache):
                # A run folder that is served from a read-only disk: the graph lives as long as the engine.
                logger.warning("%s cannot be written: %s is optimised at every start", cache, source.name)
                self._folder = tempfile.TemporaryDirectory(prefix="ptq-export-")
                self.optimised_path = Path(self._folder.name) / self.optimised_path.name
            _optimise(source, self.optimised_path, self.options)
            write_identity(self.optimised_path, identity)
        self._run = _load(self.optimised_path, _settings(self.options, Level.ORT_DISABLE_ALL)).run

    def run(
        self, sample: NDArray[np.float32], timestep: NDArray[np.int64], *label: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        eps: NDArray[np.float32] = self._run(None, dict(zip(INPUTS, (sample, timestep, *label), strict=False)))[0]
        return eps

    def executed_layers(self, expected: Mapping[str, str]) -> list[LayerRecord]:
        return executed_layers(self.source, self.optimised_path, expected)

    def layer_times_ms(self, inputs: Sequence[NDArray[Any]]) -> dict[str, float]:
        settings = _settings(self.options, Level.ORT_DISABLE_ALL)
        settings.enable_profiling = True
        with tempfile.TemporaryDirectory(prefix="ptq-export-") as folder:
            settings.profile_file_prefix = str(Path(folder) / "profile")
            feeds = {name: np.ascontiguousarray(value) for name, value in zip(INPUTS, inputs, strict=False)}
            nodes_ms = node_times_ms(_load(self.optimised_path, settings), feeds)
        times_ms: dict[str, float] = {}
        for node, layer in layer_of_nodes(self.source, self.optimised_path).items():
            times_ms[layer] = times_ms.get(layer, 0.0) + nodes_ms.get(node, 0.0)
        return times_ms

    @staticmethod
    def run_graph(model: bytes, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        settings = onnxruntime.SessionOptions()
        settings.log_severity_level = ERRORS_ONLY
        session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        result: NDArray[np.float32] = session.run(None, dict(inputs))[0]
        return result


def _identity(onnx_sha256: str, options: EngineOptions) -> Identity:
    versions = {"onnxruntime": onnxruntime.__version__}
    return current("ort", versions, onnx_sha256, {"optimisation": "all", "batch": options.batch})


def _optimise(source: Path, target: Path, options: EngineOptions) -> None:
    """Write the graph as ONNX Runtime would execute it here: fused, and laid out for this processor."""
    settings = _settings(options, Level.ORT_ENABLE_ALL)
    if options.batch is not None:
        settings.add_free_dimension_override_by_name("batch", options.batch)
    with atomic_path(target) as path:
        settings.optimized_model_filepath = str(path)
        _load(source, settings)


def _settings(options: EngineOptions, level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.enable_cpu_mem_arena = options.arena
    settings.graph_optimization_level = level
    settings.log_severity_level = ERRORS_ONLY
    # Between two calls the sampler works on the same cores: threads that spin there make it many times slower.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    return settings


def _load(path: Path, settings: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own exceptions have no base class of theirs.
        raise InputError(f"ONNX Runtime cannot load {path.name}: {error}", "export it again") from error
