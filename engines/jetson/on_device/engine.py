"""A plan, loaded and ready to be called again and again: TensorRT's Python and device memory, nothing else."""

from __future__ import annotations

import array
import math
import random
from pathlib import Path
from typing import Any

import build_plan
from cuda_runtime import CudaError

__all__ = ["EngineError", "Step"]

_TYPECODES = {"FLOAT": "f", "INT32": "i", "INT64": "q"}


class EngineError(RuntimeError):
    """The plan cannot be loaded or executed."""


class Step:
    """One denoising step of noise samples at random time-steps; calling it puts the work on the stream.

    The samples are noise and not zeros, since power depends on the data.

    Raises:
        EngineError: TensorRT does not load the plan, or it was not built for this batch.
    """

    def __init__(self, trt: Any, cuda: Any, plan: Path, batch: int, bundle: dict[str, Any]) -> None:
        self._cuda = cuda
        self._graph: int | None = None
        logger = trt.Logger(trt.Logger.WARNING)
        build_plan.load_plugins(trt, logger)
        self._runtime = trt.Runtime(logger)
        engine = self._runtime.deserialize_cuda_engine(plan.read_bytes())
        if engine is None:
            raise EngineError(f"TensorRT does not load {plan.name}: see its messages above, and Memory in README.md")
        self._engine = engine
        self._context = engine.create_execution_context()
        if self._context is None:
            raise EngineError(f"there is no memory for a context of {plan.name}: see Memory in README.md")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        for name in inputs:
            self._shape_input(name, batch)
        for name in names:
            shape = tuple(self._context.get_tensor_shape(name))
            kind = str(engine.get_tensor_dtype(name)).rpartition(".")[2]
            if kind not in _TYPECODES:
                raise EngineError(f"{name} is {kind}, which this program does not know")
            content = _content(name, _TYPECODES[kind], math.prod(shape), bundle)
            address = cuda.allocate(len(content))
            cuda.upload(address, content)
            self._context.set_tensor_address(name, address)

    def __call__(self) -> None:
        """Put one step on the stream.

        Raises:
            EngineError: TensorRT refuses.
        """
        if self._graph is None:
            self._enqueue()
        else:
            self._cuda.launch(self._graph)

    def record(self) -> str:
        """Launch the step as one CUDA graph from now on; why not, where it cannot be recorded, or nothing.

        It runs once before: what TensorRT prepares for new shapes cannot be recorded.
        """
        self._enqueue()
        self._cuda.synchronise()
        try:
            self._graph = self._cuda.capture(self._enqueue)
        except (CudaError, EngineError) as error:
            return str(error)
        return ""

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._cuda.stream):
            raise EngineError("TensorRT could not execute the step")

    def _shape_input(self, name: str, batch: int) -> None:
        built = tuple(self._engine.get_tensor_shape(name))
        least, most = built, built
        if built[0] < 0:
            least, _, most = (tuple(shape) for shape in self._engine.get_tensor_profile_shape(name, 0))
        if not least[0] <= batch <= most[0]:
            raise EngineError(f"the plan takes batches {least[0]} to {most[0]}, not {batch}")
        if not self._context.set_input_shape(name, (batch, *least[1:])):
            raise EngineError(f"TensorRT refuses batch {batch}")


def _content(name: str, typecode: str, count: int, bundle: dict[str, Any]) -> bytes:
    """Bytes of a tensor before the first step; the output's are overwritten."""
    ends = {each["name"]: each["limit"] for each in bundle["inputs"] if each["dtype"] == "int64"}
    if "timestep" in ends:
        ends["timestep"] = bundle["num_train_timesteps"]
    if name in ends:
        return array.array(typecode, [random.randrange(ends[name] or 2) for _ in range(count)]).tobytes()
    return array.array(typecode, [random.gauss(0.0, 1.0) for _ in range(count)]).tobytes()
