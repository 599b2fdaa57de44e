"""TensorRT on a Jetson, as the project knows it: what is delivered is a bundle, which the device builds."""

from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from ptq_export.engines.base import EngineOptions
from ptq_export.engines.jetson.bundle import write_bundle
from ptq_export.engines.jetson.options import JetsonOptions
from ptq_export.engines.runtime import Order
from ptq_export.engines.trt.runtime import GraphForTensorRt
from ptq_export.errors import EnvironmentMissing
from ptq_export.nn.scheme import FloatDtype

__all__ = ["JETSON", "JetsonRuntime"]


@dataclass(frozen=True)
class JetsonRuntime(GraphForTensorRt):
    """JetPack 5 has a TensorRT that parses no newer graph than one of opset 17, with float32 around the integers."""

    options: ClassVar[type[JetsonOptions]] = JetsonOptions

    def missing(self, options: EngineOptions | None = None) -> EnvironmentMissing | None:
        remedy = "copy the run's folder jetson to the device and run there: python3 build.py"
        return EnvironmentMissing("its engine is built and runs on the device itself", remedy)

    def float_dtype(self, options: EngineOptions, scheme: FloatDtype) -> FloatDtype:
        assert isinstance(options, JetsonOptions)
        return options.release.float_dtype

    def passes(self, options: EngineOptions, float_dtype: FloatDtype) -> tuple[ir.passes.PassBase, ...]:
        from ptq_export.graph.passes.opset_17 import Opset17

        return (Opset17(),) if float_dtype == "float32" else super().passes(options, float_dtype)

    def deliver(self, order: Order, graph: ir.Model) -> None:
        """The bundle; it is the product, so nothing is left to be built here."""
        write_bundle(order, graph)


FLAGS = frozenset({"--batch MIN:OPT:MAX", "--check", "--placement", "--jetpack"})
JETSON = JetsonRuntime("jetson", (), "", (), FLAGS)
