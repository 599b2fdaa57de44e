"""What can be told to ONNX Runtime's CUDA provider."""

from dataclasses import dataclass

from ptq_export.engines.base import GpuOptions
from ptq_export.engines.ort.options import OrtOptions

__all__ = ["OrtCudaOptions"]


@dataclass(frozen=True, kw_only=True)
class OrtCudaOptions(OrtOptions, GpuOptions):
    """How an engine on ONNX Runtime's CUDA provider is built and runs."""
