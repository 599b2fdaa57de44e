"""ONNX Runtime on NVIDIA GPUs, as the project knows it: TensorRT's provider for the int8 graph, CUDA's for floats."""

from dataclasses import dataclass
from typing import ClassVar

from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.engines.ort.gpu.options import OrtCudaOptions
from ptq_export.engines.ort.runtime import ORT_DISTRIBUTIONS
from ptq_export.engines.runtime import Order, Runtime
from ptq_export.engines.trt.runtime import CUDA_DISTRIBUTIONS, CUDA_MODULE, TRT_DISTRIBUTIONS, GraphForTensorRt
from ptq_export.errors import EnvironmentMissing

__all__ = ["ORT_CUDA", "ORT_TRT", "OrtCudaRuntime", "OrtTrtRuntime"]

MODULES = ("onnxruntime", CUDA_MODULE)
INSTALL = "onnxruntime-gpu cuda-python"


@dataclass(frozen=True)
class OrtTrtRuntime(GraphForTensorRt):
    """TensorRT as a provider, which builds its engine from the ONNX file when that is loaded."""

    def engine(self) -> type[Engine]:
        from ptq_export.engines.ort.gpu.engine import OrtTrtEngine

        return OrtTrtEngine

    def missing_beside(self, options: EngineOptions | None) -> EnvironmentMissing | None:
        from ptq_export.engines.ort.gpu.providers import missing_tensorrt

        return missing_tensorrt()

    def undelivered(self, order: Order) -> EnvironmentMissing | None:
        command = f"ptq-export bench {order.folder.path.name}"
        return None if (missing := self.missing()) is None else order.not_built(missing.in_one_line, command)


@dataclass(frozen=True)
class OrtCudaRuntime(Runtime):
    """CUDA as a provider: a float baseline, it has no int8 convolution."""

    options: ClassVar[type[OrtCudaOptions]] = OrtCudaOptions

    def engine(self) -> type[Engine]:
        from ptq_export.engines.ort.gpu.engine import OrtCudaEngine

        return OrtCudaEngine

    def missing_beside(self, options: EngineOptions | None) -> EnvironmentMissing | None:
        from ptq_export.engines.ort.gpu.providers import missing_cuda

        return missing_cuda()


ORT_TRT = OrtTrtRuntime(
    "ort-trt",
    MODULES,
    INSTALL,
    (*ORT_DISTRIBUTIONS, *TRT_DISTRIBUTIONS, *CUDA_DISTRIBUTIONS),
    gpu="an NVIDIA GPU",
)
ORT_CUDA = OrtCudaRuntime(
    "ort-cuda", MODULES, INSTALL, (*ORT_DISTRIBUTIONS, *CUDA_DISTRIBUTIONS), device="gpu", gpu="an NVIDIA GPU"
)
