"""What can be told to ONNX Runtime on the CPU."""

from dataclasses import dataclass

from ptq_export.engines.base import EngineOptions

__all__ = ["OrtOptions"]


@dataclass(frozen=True, kw_only=True)
class OrtOptions(EngineOptions):
    """How an engine of ONNX Runtime on the CPU is built and runs.

    Attributes:
        arena: Keep freed buffers for the next call, which is faster, and memory stays at its peak.
        operators: Use this package's own operators, where they were compiled.
    """

    arena: bool = True
    operators: bool = True
