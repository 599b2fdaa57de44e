"""ONNX Runtime on the CPU: the graph is optimised once, kept beside the run, and loaded as it is from then on."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from ptq_export.engines.base import EngineOptions, Feeds
from ptq_export.engines.build_cache import Identity, current, kept, verified_sha256
from ptq_export.engines.exported_layers import LayerRecord
from ptq_export.engines.ort.layers import executed_layers, layer_of_nodes
from ptq_export.engines.ort.operators import library_version, register, with_operators
from ptq_export.engines.ort.profile import node_times_ms
from ptq_export.engines.ort.session import Level, SessionEngine, as_written, open_session, session_settings
from ptq_export.engines.signature import read_signature
from ptq_export.graph.single_file import load_model
from ptq_export.scratch import scratch_folder

__all__ = ["OrtEngine"]


class OrtEngine(SessionEngine):
    """A denoiser on ONNX Runtime's CPU execution provider.

    `optimised_path` is the graph that runs: read it to see what became of each layer (`ort_layers`).
    """

    suffix: ClassVar[str] = "optimised.onnx"

    def __init__(
        self, source: Path, cache: Path, options: EngineOptions | None = None, sha256: str | None = None
    ) -> None:
        """Load `source` (ONNX), optimised; the optimised graph is taken from the folder `cache` or put there.

        Raises:
            InputError: `source` is absent, is not the file with that `sha256`, or is not a denoiser.
            EnvironmentMissing: the provider cannot be loaded.
        """
        self.options = options or EngineOptions()
        self.source = source
        identity = self._identity(verified_sha256(source, sha256))
        super().__init__(read_signature(source, self.options.batch))
        batch = "" if self.options.batch is None else f".batch{self.options.batch}"
        path = cache / f"{source.stem}{batch}.{self.suffix}"
        doing, done = f"optimising {source.name}", f"{source.name} is optimised"
        self.optimised_path = kept(path, identity, self._optimise, doing, done, self, self.options.trusted)
        self.session = self._open(session_settings(self.options, Level.ORT_DISABLE_ALL))

    def executed_layers(self, expected: Mapping[str, str]) -> list[LayerRecord]:
        return executed_layers(self.source, self.optimised_path, expected)

    def layer_times_ms(self, feeds: Feeds) -> dict[str, float]:
        settings = session_settings(self.options, Level.ORT_DISABLE_ALL)
        settings.enable_profiling = True
        with scratch_folder() as folder:
            settings.profile_file_prefix = str(Path(folder) / "profile")
            nodes_ms = node_times_ms(self._open(settings), feeds)
        times_ms: dict[str, float] = {}
        for node, layer in layer_of_nodes(self.source, self.optimised_path).items():
            times_ms[layer] = times_ms.get(layer, 0.0) + nodes_ms.get(node, 0.0)
        return times_ms

    @classmethod
    def run_graph(
        cls,
        model: bytes,
        inputs: Mapping[str, NDArray[Any]],
        settings: onnxruntime.SessionOptions | None = None,
    ) -> NDArray[np.float32]:
        graph = ir.from_proto(onnx.load_from_string(model))
        settings = as_written(settings or onnxruntime.SessionOptions(), graph)
        return super().run_graph(with_operators(graph) or model, inputs, settings)

    def _identity(self, onnx_sha256: str) -> Identity:
        operators = library_version() if self.options.operators else "none"
        versions = {"onnxruntime": onnxruntime.__version__, "operators": operators}
        return current("ort", versions, onnx_sha256, {"optimisation": "all", "batch": self.options.batch})

    def _optimise(self, path: Path) -> None:
        """Write the graph to `path` as ONNX Runtime would execute it here: fused, and laid out for this processor."""
        graph = load_model(self.source)
        settings = register(as_written(session_settings(self.options, Level.ORT_ENABLE_ALL), graph))
        rewritten = with_operators(graph) if self.options.operators else None
        if self.options.batch is not None:
            settings.add_free_dimension_override_by_name("batch", self.options.batch)
        settings.optimized_model_filepath = str(path)
        open_session(rewritten or self.source, settings, self.providers)

    def _open(self, settings: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        return open_session(self.optimised_path, register(settings), self.providers)
