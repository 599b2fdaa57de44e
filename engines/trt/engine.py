"""TensorRT, and TensorRT for RTX: the plan is built once in a process of its own, kept, and loaded from then on."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import onnx
from numpy.typing import NDArray

from ptq_export.engines.base import DeviceTiming, EngineOptions, Feeds, GpuEngine
from ptq_export.engines.build_cache import verified_sha256, workshop
from ptq_export.engines.cuda.driver import describe_gpu
from ptq_export.engines.cuda.runtime import free_bytes
from ptq_export.engines.exported_layers import LayerRecord
from ptq_export.engines.output import written
from ptq_export.engines.signature import read_signature
from ptq_export.engines.trt.layers import executed_layers, layer_times_ms
from ptq_export.engines.trt.options import TrtOptions
from ptq_export.engines.trt.plan import RTX, BuilderSettings, make_plan, make_plan_here
from ptq_export.engines.trt.reuse import PlanRequest, fitted, ready_plan
from ptq_export.engines.trt.rtx_gpu import other_gpu, serves
from ptq_export.engines.trt.session import Session
from ptq_export.errors import InputError
from ptq_export.interface import SAMPLE

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TrtEngine", "TrtRtxEngine", "of_fixed_shapes"]

BRIEF = 1  # builder level of parts that are run once: their arithmetic is the same, their speed is nobody's concern


class TrtEngine(GpuEngine):
    """A denoiser on TensorRT, on the first GPU that this process sees.

    More samples than the plan's largest batch are computed in parts; fewer than its least are made as many.
    """

    package: ClassVar[str] = "tensorrt"

    def __init__(
        self, source: Path, cache: Path, options: EngineOptions | None = None, sha256: str | None = None
    ) -> None:
        """Load the plan of `source` (ONNX), from beside it or from the folder `cache`, or build it there.

        Raises:
            InputError: `source` is absent, is not the file with that `sha256`, or is not a denoiser.
            EnvironmentMissing: there is no GPU, or a plan that is of another device cannot be built again here.
            GateFailed: TensorRT refuses the graph.
        """
        self.options = TrtOptions.of(options)
        self.source = source
        onnx_sha256 = verified_sha256(source, sha256)
        super().__init__(read_signature(source, self.options.batch))
        gpu = describe_gpu()
        trt = import_module(self.package)
        self._batches = self.options.batch_range
        builder, trusted = self.options.builder, self.options.trusted
        request = PlanRequest(self.package, trt.__version__, source, onnx_sha256, self._batches, builder, gpu, trusted)
        self.plan_path = ready_plan(request, cache)
        before = free_bytes()
        self._session = Session(trt, self.plan_path.name, self.plan_path.read_bytes())
        self._session.run(self.signature.nothing(self._batches[0]), False)
        self._gpu_bytes = before - free_bytes()

    @property
    def gpu_bytes(self) -> int:
        return self._gpu_bytes

    def run(self, feeds: Feeds, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        rows, parts = fitted(feeds, self._batches)
        eps = np.empty(self.signature.output_shape(len(rows[SAMPLE])), np.float32)
        with self._turn:
            for part in parts:
                eps[part] = self._session.run({name: value[part] for name, value in rows.items()}, self._graphs)
        return written(eps[: len(feeds[SAMPLE])], out)

    def run_tensors(self, feeds: "Mapping[str, Tensor]", out: "Tensor | None" = None) -> "Tensor":
        import torch

        device = feeds[SAMPLE].device
        if device.index != 0:
            raise InputError(f"the sample is on {device}, this engine on cuda:0", "move it there")
        rows, parts = fitted(feeds, self._batches)
        shape = self.signature.output_shape(len(rows[SAMPLE]))
        fits = out is not None and tuple(out.shape) == shape
        eps = out if out is not None and fits else torch.empty(shape, dtype=torch.float32, device=device)
        stream = torch.cuda.current_stream(device).cuda_stream
        with self._turn:
            for part in parts:
                tensors = {name: value[part] for name, value in rows.items()}
                addresses = {name: tensor.data_ptr() for name, tensor in tensors.items()}
                addresses[self._session.output] = eps[part].data_ptr()
                shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
                self._session.enqueue(addresses, shapes, stream, self._graphs)
        return eps if fits else written(eps[: len(feeds[SAMPLE])], out)

    def timed_step(self, graph: bool, feeds: Feeds) -> Callable[[], DeviceTiming]:
        return self._session.timed_step(feeds, graph)

    def step_loop(self, graph: bool, feeds: Feeds) -> Callable[[int], None]:
        return self._session.step_loop(feeds, graph)

    def executed_layers(self, expected: Mapping[str, str]) -> list[LayerRecord]:
        return executed_layers(self.source, self._session.inspect(), expected)

    def layer_times_ms(self, feeds: Feeds) -> dict[str, float]:
        times_ms = self._session.layer_times_ms(feeds)
        return layer_times_ms(self.source, self._session.inspect(), times_ms)

    @classmethod
    def run_graph(cls, model: bytes, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        source, plan = workshop() / "part.onnx", workshop() / "part.plan"
        source.write_bytes(of_fixed_shapes(model, inputs))
        cls._make_part(source, plan)
        result = Session(import_module(cls.package), plan.name, plan.read_bytes()).run(inputs, False)
        return result.astype(np.float32)

    @classmethod
    def _make_part(cls, source: Path, plan: Path) -> None:
        """In this process: parts are many, and small enough not to crash the builder."""
        make_plan_here(import_module(cls.package), source, plan, BuilderSettings(BRIEF))

    @property
    def _graphs(self) -> bool:
        return self.options.cuda_graphs


class TrtRtxEngine(TrtEngine):
    """A denoiser on TensorRT for RTX, which finishes a plan for the GPU at hand when it is loaded."""

    package: ClassVar[str] = RTX

    def __init__(
        self, source: Path, cache: Path, options: EngineOptions | None = None, sha256: str | None = None
    ) -> None:
        """As for TensorRT.

        Raises:
            EnvironmentMissing: the GPU here is none of those that the plan is for.
        """
        missing = other_gpu(TrtOptions.of(options).compute_capabilities)
        if missing is not None:
            raise missing
        super().__init__(source, cache, options, sha256)

    @classmethod
    def _make_part(cls, source: Path, plan: Path) -> None:
        """In a process of its own: some graphs crash this builder. A part serves the GPU here and is not kept."""
        capability = describe_gpu().capability
        named = () if serves(capability, ()) else (f"{capability[0]}.{capability[1]}",)
        settings = BuilderSettings(BRIEF, compute_capabilities=named)
        make_plan(cls.package, source, plan, (1, 1, 1), settings=settings)


def of_fixed_shapes(model: bytes, inputs: Mapping[str, NDArray[Any]]) -> bytes:
    """The graph for inputs of exactly these shapes."""
    proto = onnx.load_from_string(model)
    for value in proto.graph.input:
        if value.name in inputs:
            for size, dimension in zip(inputs[value.name].shape, value.type.tensor_type.shape.dim, strict=True):
                dimension.dim_value = size
    fixed: bytes = proto.SerializeToString()
    return fixed
