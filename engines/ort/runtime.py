"""ONNX Runtime on the CPU, as the project knows it."""

from dataclasses import dataclass
from typing import ClassVar

from ptq_export.engines.base import Engine
from ptq_export.engines.ort.options import OrtOptions
from ptq_export.engines.runtime import Runtime
from ptq_export.processor import instruction_sets

__all__ = ["ORT", "ORT_DISTRIBUTIONS", "OrtRuntime"]

ORT_DISTRIBUTIONS = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True)
class OrtRuntime(Runtime):
    """Its speed depends on this package's own operators, too."""

    options: ClassVar[type[OrtOptions]] = OrtOptions

    def engine(self) -> type[Engine]:
        from ptq_export.engines.ort.engine import OrtEngine

        return OrtEngine

    def advice(self) -> str:
        from ptq_export.engines.ort.operators import missing_operators

        return missing_operators()

    def recommendation(self) -> str:
        from ptq_export.engines.ort.operators import missing_operators

        if missing_operators() or "avx2" not in instruction_sets():
            return ""
        return "the shortest int8 step of most networks that were measured on x86"

    def version(self) -> str:
        from ptq_export.engines.ort.operators import library_version

        return f"{super().version()}, {library_version()}"


ORT = OrtRuntime("ort", ("onnxruntime",), "onnxruntime", ORT_DISTRIBUTIONS)
