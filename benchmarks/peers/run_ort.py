"""Models on ONNX Runtime's CPU provider, ours and the peers' alike: through our engine, without its checks.

The peers' graphs are executed by ONNX Runtime's own operators alone, as their makers would serve them.
"""

from pathlib import Path

import onnxruntime

from ptq_export.benchmarks.peers.runtimes import Opened
from ptq_export.benchmarks.peers.subject import Subject
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.engines.ort.options import OrtOptions
from ptq_export.engines.ort.session import Level

__all__ = ["open_ort"]


def open_ort(
    subject: Subject,
    file: Path | None,
    cache: Path,
    batch: int,
    threads: int,
    operators: bool,
    exact_sums: bool = False,
) -> Opened:
    """The engine of an ONNX file, specialised for `batch`, with this package's `operators` or without them, and with
    `_ExactSums` or without; its layers are read back from the optimised graph."""
    options = OrtOptions(batch=batch, threads=threads, operators=operators)
    engine = (_ExactSums if exact_sums else OrtEngine)(file or subject.graph, cache, options)
    return Opened(engine.run, sum(row.precision == "int8" for row in engine.executed_layers({})))


class _ExactSums(OrtEngine):
    """ONNX Runtime's own way around 16-bit sums: where the processor has them, weights of full range become uint8, for
    slower kernels that widen both operands first."""

    suffix = "exact-sums.onnx"

    def _settings(self, level: Level) -> onnxruntime.SessionOptions:
        settings = super()._settings(level)
        settings.add_session_config_entry("session.x64quantprecision", "1")
        return settings
