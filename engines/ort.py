"""ONNX Runtime on the CPU: the graph is optimised once, kept beside the run, and loaded as it is from then on."""

import logging
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import psutil
from numpy.typing import NDArray

from ptq_export.artifacts import atomic_path, sha256_file
from ptq_export.engines.base import Engine, Signature
from ptq_export.engines.identity import Identity, current, stale_reasons, write_identity
from ptq_export.errors import InputError
from ptq_export.interface import CLASSES, INPUTS, TRAIN_TIMESTEPS

__all__ = ["OrtEngine", "OrtOptions", "load_files", "open_session", "run_graph"]

logger = logging.getLogger(__name__)
ERRORS_ONLY = 3


def _physical_cores() -> int:
    """Cores that this process may use: a second thread on a core shares its multipliers and gains nothing."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or logical, logical)


@dataclass(frozen=True)
class OrtOptions:
    """How a session runs.

    Attributes:
        batch: The only batch size, for which the graph is then specialised; None serves any.
        threads: Threads per operator; all physical cores by default.
        arena: Keep freed buffers for the next call: faster, and memory stays at its peak.
    """

    batch: int | None = None
    threads: int = field(default_factory=_physical_cores)
    arena: bool = True


class OrtEngine(Engine):
    """A denoiser on ONNX Runtime's CPU execution provider.

    `optimised_path` is the graph that runs: read it to see what became of each layer (`ort_layers`).
    """

    def __init__(self, source: Path, cache: Path, options: OrtOptions | None = None, sha256: str | None = None) -> None:
        """Load `source` (ONNX), optimised; the optimised graph is taken from the folder `cache` or put there.

        Raises:
            InputError: `source` is absent, is not the file with that `sha256`, or is not a denoiser.
        """
        self.options = options or OrtOptions()
        self.source = source
        identity = _identity(source, sha256, self.options)
        batch = "" if self.options.batch is None else f".batch{self.options.batch}"
        self.optimised_path = cache / f"{source.stem}{batch}.optimised.onnx"
        reasons = stale_reasons(self.optimised_path, identity)
        if reasons:
            logger.info("optimising %s: %s", source.name, "; ".join(reasons))
            if not _writable(cache):
                # A run folder that is served from a read-only disk: the graph lives as long as the engine.
                logger.warning("%s cannot be written: %s is optimised at every start", cache, source.name)
                self._folder = tempfile.TemporaryDirectory(prefix="ptq-export-")
                self.optimised_path = Path(self._folder.name) / self.optimised_path.name
            _optimise(source, self.optimised_path, self.options)
            write_identity(self.optimised_path, identity)
        session = open_session(self.optimised_path, self.options)
        self._run = session.run
        super().__init__(_signature(session, source))

    def run(
        self, sample: NDArray[np.float32], timestep: NDArray[np.int64], *label: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        eps: NDArray[np.float32] = self._run(None, dict(zip(INPUTS, (sample, timestep, *label), strict=False)))[0]
        return eps


def load_files(source: str, batch: str = "") -> OrtEngine:
    """The engine of an ONNX file and the cache beside it, from plain strings: for a process that knows nothing else."""
    options = OrtOptions(batch=int(batch) if batch else None)
    return OrtEngine(Path(source), Path(source).parent / "engine", options)


def open_session(path: Path, options: OrtOptions, profile: Path | None = None) -> onnxruntime.InferenceSession:
    """A session of an optimised graph, as it is; its profiler writes a file whose name begins with `profile`.

    Raises:
        InputError: ONNX Runtime cannot load the file.
    """
    settings = _settings(options, onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL)
    if profile is not None:
        settings.enable_profiling = True
        settings.profile_file_prefix = str(profile)
    return _load(path, settings)


def run_graph(model: bytes, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The one output of a serialised ONNX graph, optimised as an engine's graph is: for layers and blocks alone."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = ERRORS_ONLY
    session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
    result: NDArray[np.float32] = session.run(None, dict(inputs))[0]
    return result


def _identity(source: Path, sha256: str | None, options: OrtOptions) -> Identity:
    if not source.is_file():
        raise InputError(f"{source} does not exist", "export it first")
    found = sha256_file(source)
    if sha256 not in (None, found):
        raise InputError(
            f"{source.name} is damaged: its sha256 is {found}, the manifest says {sha256}",
            "copy the file again, or make the run again in a new folder",
        )
    return current(
        "ort", {"onnxruntime": onnxruntime.__version__}, found, {"optimisation": "all", "batch": options.batch}
    )


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _optimise(source: Path, target: Path, options: OrtOptions) -> None:
    """Write the graph as ONNX Runtime would execute it here: fused, and laid out for this processor."""
    settings = _settings(options, onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL)
    if options.batch is not None:
        settings.add_free_dimension_override_by_name("batch", options.batch)
    with atomic_path(target) as path:
        settings.optimized_model_filepath = str(path)
        _signature(_load(source, settings), source)


def _settings(options: OrtOptions, level: onnxruntime.GraphOptimizationLevel) -> onnxruntime.SessionOptions:
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


def _signature(session: onnxruntime.InferenceSession, source: Path) -> Signature:
    inputs = {item.name: item for item in session.get_inputs()}
    shape = inputs["sample"].shape if set(inputs) in (set(INPUTS), set(INPUTS[:2])) else []
    if len(shape) != 4 or not all(isinstance(size, int) for size in shape[1:]):
        described = ", ".join(f"{item.name} {item.shape}" for item in inputs.values())
        raise InputError(f"{source.name} is not a denoiser of (sample, timestep): it takes {described or 'nothing'}")
    stated = session.get_modelmeta().custom_metadata_map
    steps, classes = (int(stated[key]) if key in stated else None for key in (TRAIN_TIMESTEPS, CLASSES))
    batch, channels, height, width = shape
    batch = batch if isinstance(batch, int) else None
    if ("label" in inputs) != (classes is not None):
        raise InputError(f"{source.name} takes labels and does not say how many, or the reverse", "export it again")
    return Signature((channels, height, width), session.get_outputs()[0].shape[1], batch, steps, classes)
