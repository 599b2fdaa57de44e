"""Models on ONNX Runtime's CPU provider, ours and the peers' alike: through our engine, without its checks.

The peers' graphs are executed by ONNX Runtime's own operators alone, as their makers would serve them.
"""

from pathlib import Path

from ptq_export.benchmarks.peers.runtimes import Opened
from ptq_export.benchmarks.peers.subject import Subject
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.engines.ort.options import OrtOptions

__all__ = ["open_ort"]


def open_ort(subject: Subject, file: Path | None, cache: Path, batch: int, threads: int, operators: bool) -> Opened:
    """The engine of an ONNX file, specialised for `batch`, with this package's `operators` or without them; its layers
    are read back from the optimised graph."""
    options = OrtOptions(batch=batch, threads=threads, operators=operators)
    engine = OrtEngine(file or subject.graph, cache, options)
    return Opened(engine.run, sum(row.precision == "int8" for row in engine.executed_layers({})))
