"""A plan on the GPU: its execution context, its buffers, and the CUDA graph of the shapes at hand.

Device buffers, streams and graphs come from cuda-python, as in NVIDIA's own samples since TensorRT 10.14.
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptq_export.engines.base import DeviceTiming
from ptq_export.engines.device import Block, Event, Graph, Stream, copy
from ptq_export.engines.layers import CALLS, WARMUP
from ptq_export.engines.trt_callbacks import messages_to, profiler_of
from ptq_export.errors import EnvironmentMissing

__all__ = ["Session"]

Shapes = Mapping[str, tuple[int, ...]]
ALIGNMENT = 256


class Session:
    """One plan, loaded; not to be called from two threads at once.

    Work of one call follows that of the call before, whatever their streams: they share the context's memory.
    """

    def __init__(self, trt: Any, name: str, plan: bytes) -> None:
        """Load `plan`, whose file is called `name`.

        Raises:
            EnvironmentMissing: this TensorRT on this GPU refuses it; with TensorRT's own messages.
        """
        heard: list[str] = []
        self._log = messages_to(trt, heard)
        self._runtime = trt.Runtime(self._log)
        self._runtime.engine_host_code_allowed = False
        self._trt, self._engine = trt, self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EnvironmentMissing(
                f"{name} cannot be loaded: {'; '.join(heard[-3:])}", "remove it: it is built again"
            )
        self._context = self._new_context()
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        reads = [self._engine.get_tensor_mode(each) == trt.TensorIOMode.INPUT for each in names]
        self.inputs = [each for each, is_input in zip(names, reads, strict=True) if is_input]
        [self.output] = [each for each, is_input in zip(names, reads, strict=True) if not is_input]
        self.dtypes = {each: np.dtype(trt.nptype(self._engine.get_tensor_dtype(each))) for each in names}
        self._stream, self._handover = Stream(), Event()
        self._last_stream = self._stream.handle
        self._blocks: dict[str, Block] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._graph: Graph | None = None

    def run(self, feeds: Mapping[str, NDArray[Any]], graph: bool) -> NDArray[Any]:
        """The output of arrays on the host, by way of buffers on the device."""
        stream = self._stream.handle
        self._follow(stream)
        shape = self._stage(feeds, stream)
        self._step(graph, stream)
        result = np.empty(shape, self.dtypes[self.output])
        self._blocks[self.output].write(result, stream)
        self._stream.synchronise()
        return result

    def enqueue(self, addresses: Mapping[str, int], shapes: Shapes, stream: int, graph: bool) -> None:
        """Put one step on `stream`, reading and writing device memory at `addresses`; does not wait for it.

        A CUDA graph has addresses of its own: with `graph` the data is copied there and back, on the device. So it is
        where an address does not begin at a multiple of 256 bytes, as TensorRT wants it.
        """
        self._follow(stream)
        self._set_shapes(shapes)
        if not graph and not any(address % ALIGNMENT for address in addresses.values()):
            self._execute(addresses, stream)
            self._leave(stream)
            return
        for name in self.inputs:
            copy(self._blocks[name].address, addresses[name], self._bytes(name), stream)
        self._step(graph, stream)
        copy(addresses[self.output], self._blocks[self.output].address, self._bytes(self.output), stream)
        self._leave(stream)

    def timed_step(self, feeds: Mapping[str, NDArray[Any]], graph: bool) -> Callable[[], DeviceTiming]:
        """A function that computes the step of `feeds` again and times it; nothing is copied in it.

        One more step runs ahead of it, unmeasured: the GPU is busy while the host asks, as it is in a loop.
        """
        start, end, stream = Event(), Event(), self._stream.handle

        def step() -> DeviceTiming:
            self._follow(stream)
            if any(self._shapes.get(name) != array.shape for name, array in feeds.items()):
                self._stage(feeds, stream)
            self._stream.synchronise()
            self._step(graph, stream)
            start.record(stream)
            began = time.perf_counter_ns()
            recorded = self._step(graph, stream)
            enqueue_ms = (time.perf_counter_ns() - began) / 1e6
            end.record(stream)
            self._leave(stream)
            end.synchronise()
            return DeviceTiming(end.elapsed_ms(start), enqueue_ms, recorded)

        return step

    def inspect(self) -> str:
        """TensorRT's own account of the engine's layers, as JSON."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def layer_times_ms(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Median milliseconds of each of the engine's layers, by its name."""
        self._follow(self._stream.handle)
        self._stage(feeds, self._stream.handle)
        times_ms: dict[str, list[float]] = defaultdict(list)
        profiler = profiler_of(self._trt, times_ms)
        self._context.profiler = profiler
        try:
            for _ in range(WARMUP + CALLS):
                self._step(False, self._stream.handle)
                self._stream.synchronise()
        finally:
            self._context, self._graph = self._new_context(), None  # a profiler cannot be taken off again
            self._shapes = {}
        return {name: median(values[WARMUP:]) for name, values in times_ms.items()}

    def _new_context(self) -> Any:
        context = _create_context(self._trt, self._engine)
        if context is None:
            raise EnvironmentMissing("TensorRT cannot make an execution context", "free some GPU memory")
        return context

    def _follow(self, stream: int) -> None:
        """Let `stream` wait for what the last call left on another."""
        if stream != self._last_stream:
            self._handover.hold(stream)

    def _leave(self, stream: int) -> None:
        """Note the end of a call that is not waited for; now: its stream may be gone when the next one comes."""
        self._handover.record(stream)
        self._last_stream = stream

    def _stage(self, feeds: Mapping[str, NDArray[Any]], stream: int) -> tuple[int, ...]:
        """Copy inputs to their buffers; the output's shape."""
        arrays = {name: np.ascontiguousarray(feeds[name], self.dtypes[name]) for name in self.inputs}
        self._set_shapes({name: array.shape for name, array in arrays.items()})
        for name, array in arrays.items():
            self._blocks[name].read(array, stream)
        return self._shapes[self.output]

    def _set_shapes(self, shapes: Shapes) -> None:
        """Tell the context; buffers grow where they must, and a graph of other shapes is worth nothing any more."""
        if all(self._shapes.get(name) == shapes[name] for name in self.inputs):
            return
        self._graph, self._shapes = None, {}
        for name in self.inputs:
            if not self._context.set_input_shape(name, shapes[name]):
                raise EnvironmentMissing(
                    f"the plan does not serve {name} {list(shapes[name])}", "build it for that batch"
                )
        self._shapes = {name: tuple(self._context.get_tensor_shape(name)) for name in (*self.inputs, self.output)}
        for name in self._shapes:
            if name not in self._blocks or self._blocks[name].size_bytes < self._bytes(name):
                self._blocks[name] = Block(self._bytes(name))

    def _bytes(self, name: str) -> int:
        return math.prod(self._shapes[name]) * int(self.dtypes[name].itemsize)

    def _step(self, graph: bool, stream: int) -> bool:
        """One step on the buffers; the first with these shapes is run plainly and then recorded. Whether a recording
        was launched."""
        if graph and self._graph is not None:
            self._graph.launch(stream)
            return True
        addresses = {name: block.address for name, block in self._blocks.items()}
        self._execute(addresses, stream)
        if graph and self._can_record():
            self._graph = Graph(lambda recording: self._execute(addresses, recording))
        return False

    def _can_record(self) -> bool:
        # TensorRT for RTX may still be compiling kernels.
        asked = getattr(self._context, "is_stream_capturable", None)
        return asked is None or bool(asked(self._stream.handle))

    def _execute(self, addresses: Mapping[str, int], stream: int) -> None:
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)
        if not self._context.execute_async_v3(stream):
            raise EnvironmentMissing("TensorRT failed to run a step", "see its messages above")


def _create_context(trt: Any, engine: Any) -> Any:
    """An execution context. TensorRT for RTX compiles for a batch when it first meets it, not in the background: what
    is timed is what stays."""
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context()
    settings = engine.create_runtime_config()
    settings.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(settings)
