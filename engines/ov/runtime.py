"""OpenVINO on x86 CPUs, as the project knows it: with float32 or bfloat16 around the integers."""

from dataclasses import dataclass

from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.engines.ov.bf16 import missing_bf16
from ptq_export.engines.runtime import Runtime
from ptq_export.errors import EnvironmentMissing

__all__ = ["OPENVINO", "OPENVINO_BF16", "OpenVinoBf16Runtime", "OpenVinoRuntime"]

INSTALL = "'ptq-export[openvino]'"


@dataclass(frozen=True)
class OpenVinoRuntime(Runtime):
    """float32."""

    def engine(self) -> type[Engine]:
        from ptq_export.engines.ov.engine import OpenVinoEngine

        return OpenVinoEngine


@dataclass(frozen=True)
class OpenVinoBf16Runtime(Runtime):
    """bfloat16, where the processor computes in it."""

    def engine(self) -> type[Engine]:
        from ptq_export.engines.ov.engine import OpenVinoBf16Engine

        return OpenVinoBf16Engine

    def missing_beside(self, options: EngineOptions | None) -> EnvironmentMissing | None:
        return missing_bf16()


OPENVINO = OpenVinoRuntime("openvino", ("openvino",), INSTALL, ("openvino",))
OPENVINO_BF16 = OpenVinoBf16Runtime("openvino-bf16", ("openvino",), INSTALL, ("openvino",))
