"""ONNX Runtime on the CPU: the graph is optimised once, kept beside the run, and loaded as it is from then on."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray

from ptq_export.artifacts import data_beside
from ptq_export.engines.base import EngineOptions, Feeds
from ptq_export.engines.build_cache import Identity, build_or_reuse, current, verified_sha256
from ptq_export.engines.exported_layers import LayerRecord
from ptq_export.engines.ort.bound import bound_run
from ptq_export.engines.ort.layers import executed_layers, layer_of_nodes
from ptq_export.engines.ort.operators import library_version, register, serialised, with_operators
from ptq_export.engines.ort.options import OrtOptions
from ptq_export.engines.ort.profile import node_times_ms
from ptq_export.engines.ort.session import Level, SessionEngine, as_written, open_session, session_settings
from ptq_export.engines.ort.winograd_race import faster_here
from ptq_export.engines.prompt import open_prompt
from ptq_export.engines.signature import read_signature
from ptq_export.graph.model_file import adopt, is_large, load_model, save_model
from ptq_export.scratch import scratch_folder

__all__ = ["OrtEngine"]

DATA_NAME = "session.optimized_model_external_initializers_file_name"
DATA_LEAST = "session.optimized_model_external_initializers_min_size_in_bytes"
LEAST_BYTES = 8192
"""Of what goes into the data file: shapes and widths are smaller, and must lie in the graph to be loaded again."""


class OrtEngine(SessionEngine):
    """A denoiser on ONNX Runtime's CPU execution provider.

    `optimised_path` is the graph that runs: read it to see what became of each layer (`ort_layers`).
    """

    options_type: ClassVar[type[OrtOptions]] = OrtOptions
    suffix: ClassVar[str] = "optimised.onnx"

    def __init__(
        self, source: Path, cache: Path, options: EngineOptions | None = None, sha256: str | None = None
    ) -> None:
        """Load `source` (ONNX), optimised; the optimised graph is taken from the folder `cache` or put there.

        Raises:
            InputError: `source` is absent, is not the file with that `sha256`, or is not a denoiser; or its prompt
                graph is not the file beside it.
            EnvironmentMissing: the provider cannot be loaded.
        """
        self.options = self.options_type.of(options)
        self.source = source
        identity = self._identity(verified_sha256(source, sha256))
        signature = read_signature(source, self.options.batch)
        super().__init__(signature, open_prompt(source, signature, self.options))
        batch = "" if self.options.batch is None else f".batch{self.options.batch}"
        self._path = cache / f"{source.stem}{batch}.{self.suffix}"
        doing, done = f"optimising {source.name}", f"{source.name} is optimised"
        trusted = self.options.trusted
        self.optimised_path = build_or_reuse(self._path, identity, self._optimise, doing, done, self, trusted)
        self.session = self._open(self._settings(Level.ORT_DISABLE_ALL))

    def bound_run(self, feeds: Feeds, out: NDArray[np.float32]) -> Callable[[], object]:
        return super().bound_run(feeds, out) if self.prompt else bound_run(self.session, feeds, out)

    def executed_layers(self, expected: Mapping[str, str]) -> list[LayerRecord]:
        return executed_layers(self.source, self.optimised_path, expected)

    def layer_times_ms(self, feeds: Feeds) -> dict[str, float]:
        settings = self._settings(Level.ORT_DISABLE_ALL)
        settings.enable_profiling = True
        with scratch_folder() as folder:
            settings.profile_file_prefix = str(Path(folder) / "profile")
            nodes_ms = node_times_ms(self._open(settings), self.step_feeds(feeds))
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
        rewritten = with_operators(graph, faster_here(settings.intra_op_num_threads))
        return super().run_graph(model if rewritten is None else serialised(rewritten), inputs, settings)

    def _identity(self, onnx_sha256: str) -> Identity:
        operators = library_version() if self.options.operators else "none"
        versions = {"onnxruntime": onnxruntime.__version__, "operators": operators}
        return current("ort", versions, onnx_sha256, {"optimisation": "all", "batch": self.options.batch})

    def _optimise(self, path: Path) -> None:
        """Write the graph to `path` as ONNX Runtime would execute it here: fused, and laid out for this processor."""
        graph = load_model(self.source)
        settings = register(as_written(self._settings(Level.ORT_ENABLE_ALL), graph))
        if self.options.batch is not None:
            settings.add_free_dimension_override_by_name("batch", self.options.batch)
        settings.optimized_model_filepath = str(path)
        large = is_large(self.source)
        if large:
            settings.add_session_config_entry(DATA_NAME, data_beside(path).name)
            settings.add_session_config_entry(DATA_LEAST, str(LEAST_BYTES))
        with scratch_folder() as folder:
            open_session(self._rewritten(graph, Path(folder)) or self.source, settings, self.providers)
        if large and data_beside(path).is_file():
            adopt(path, data_beside(self._path).name)

    def _rewritten(self, graph: ir.Model, folder: Path) -> Path | bytes | None:
        """The graph with this package's operators, a large one as a file in `folder`; None where nothing is to gain."""
        rewritten = with_operators(graph, faster_here(self.options.threads)) if self.options.operators else None
        if rewritten is None:
            return None
        return save_model(rewritten, folder / self.source.name) if is_large(self.source) else serialised(rewritten)

    def _settings(self, level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
        settings = session_settings(self.options.threads, level)
        settings.enable_cpu_mem_arena = self.options.arena
        return settings

    def _open(self, settings: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        return open_session(self.optimised_path, register(settings), self.providers)
