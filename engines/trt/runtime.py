"""TensorRT, and TensorRT for RTX, as the project knows them; `GraphForTensorRt` is what all share that TensorRT builds.

Their graphs are checked here without a GPU. Without one, what is finished is the proved ONNX file, and a script beside
it that builds the plan where it will run.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import onnx_ir as ir

from ptq_export.artifacts import atomic_path
from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.engines.cuda.driver import missing_gpu
from ptq_export.engines.runtime import Order, Runtime, is_installed
from ptq_export.engines.trt import build_plan
from ptq_export.engines.trt.checks import CHECKED, check_graph, check_is_due, failures, options_of, was_refused
from ptq_export.engines.trt.options import TrtOptions
from ptq_export.engines.trt.plan import RTX
from ptq_export.engines.trt.rtx_gpu import missing_rtx_gpu, other_gpu
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.graph.model_file import save_model
from ptq_export.interface import Input
from ptq_export.nn.scheme import FloatDtype
from ptq_export.schemas import read_part

__all__ = [
    "CUDA_DISTRIBUTIONS",
    "CUDA_MODULE",
    "TRT",
    "TRT_DISTRIBUTIONS",
    "TRT_RTX",
    "GraphForTensorRt",
    "TrtRtxRuntime",
    "TrtRuntime",
]

CUDA_MODULE = "cuda.bindings.runtime"
CUDA_DISTRIBUTIONS = ("cuda-bindings", "cuda-python")
TRT_DISTRIBUTIONS = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
RTX_DISTRIBUTIONS = ("tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13")
BUILDER = Path(str(build_plan.__file__))
FLAGS = frozenset({"--batch MIN:OPT:MAX", "--builder-level", "--workspace", "--check", "--placement", "--tune"})


@dataclass(frozen=True)
class GraphForTensorRt(Runtime):
    """A runtime whose int8 graphs TensorRT builds; `own` is the module whose plan its engine loads, empty where
    something else builds the engine."""

    takes: frozenset[str] = FLAGS
    device: Literal["cpu", "gpu"] = "gpu"
    own: str = ""
    options: ClassVar[type[TrtOptions]] = TrtOptions

    def missing_beside(self, options: EngineOptions | None) -> EnvironmentMissing | None:
        cause = missing_gpu()
        remedy = f"{self.modules[0]} engines run on {self.gpu}: copy the run folder to one"
        return EnvironmentMissing(cause, remedy) if cause else None

    def passes(self, options: EngineOptions, float_dtype: FloatDtype) -> tuple[ir.passes.PassBase, ...]:
        from ptq_export.graph.passes.half_precision import HalfPrecision

        return (HalfPrecision(),) if float_dtype == "float16" else ()

    def write(self, graph: ir.Model, path: Path) -> None:
        """Plans are built from the whole network."""
        save_model(graph, path)

    def check_inputs(self, target: str, inputs: Sequence[Input]) -> None:
        if named := sorted({size for each in inputs for size in each.open_sizes}):
            remedy = "give numbers in Input.shape, or take ort-int8 or openvino-int8"
            raise InputError(f"{target} is built for fixed sizes, and {', '.join(named)} is open", remedy)

    def require(self, check: str | None) -> None:
        if check == "rtx" and not is_installed(RTX):
            remedy = "pip install tensorrt-rtx, or leave --check out"
            raise EnvironmentMissing(f"--check rtx: the package {RTX} is not installed", remedy)

    def check(self, order: Order, graph: ir.Model) -> None:
        check_graph(order, self.own, graph)

    def check_is_due(self, order: Order) -> bool:
        return check_is_due(order, self.own)

    def failures(self, order: Order) -> list[str]:
        return failures(order)

    def runs_here(self, order: Order) -> bool:
        return super().runs_here(order) and not was_refused(order)


@dataclass(frozen=True)
class TrtRuntime(GraphForTensorRt):
    """A plan by TensorRT itself, on the GPU that will run it."""

    def engine(self) -> type[Engine]:
        from ptq_export.engines.trt.engine import TrtEngine

        return TrtEngine

    def deliver(self, order: Order, graph: ir.Model) -> None:
        """The script that builds the plan where it will run."""
        with atomic_path(order.folder.path / BUILDER.name) as temporary:
            shutil.copyfile(BUILDER, temporary)
        order.folder.keep(BUILDER.name)

    def undelivered(self, order: Order) -> EnvironmentMissing | None:
        path = order.folder.path
        if self.own in read_part(path, CHECKED)["plans"]:
            return None
        missing = self.missing()
        cause = f"{self.own} is too old" if missing is None else missing.in_one_line
        options = options_of(order)
        batch, names = ":".join(map(str, options.batch_range)), ",".join(options.compute_capabilities)
        named = f" --compute-capability {names}" if names else ""
        command = f"python {BUILDER.name} {order.onnx} --package {self.own} --batch {batch}{named}"
        bench = f"(where this package is installed too: ptq-export bench {path.name})"
        return order.not_built(cause, f"{command} {bench}")


@dataclass(frozen=True)
class TrtRtxRuntime(TrtRuntime):
    """A plan by TensorRT for RTX, which needs no GPU to be built, and one of its own to run."""

    takes: frozenset[str] = FLAGS | {"--compute-capability"}

    def engine(self) -> type[Engine]:
        from ptq_export.engines.trt.engine import TrtRtxEngine

        return TrtRtxEngine

    def missing_beside(self, options: EngineOptions | None) -> EnvironmentMissing | None:
        asked = options.compute_capabilities if isinstance(options, TrtOptions) else None
        return missing_rtx_gpu() or (None if asked is None else other_gpu(asked))


TRT = TrtRuntime(
    "trt",
    ("tensorrt", CUDA_MODULE),
    "tensorrt cuda-python",
    (*TRT_DISTRIBUTIONS, *CUDA_DISTRIBUTIONS),
    gpu="an NVIDIA GPU",
    own="tensorrt",
)
TRT_RTX = TrtRtxRuntime(
    "trt-rtx",
    (RTX, CUDA_MODULE),
    "'ptq-export[trt-rtx]'",
    (*RTX_DISTRIBUTIONS, *CUDA_DISTRIBUTIONS),
    gpu="an NVIDIA RTX GPU",
    own=RTX,
)
