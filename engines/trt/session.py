"""A plan on the GPU: its execution context, its buffers, and the CUDA graph of the shapes at hand.

Device buffers, streams and graphs come from cuda-python, as in NVIDIA's own samples since TensorRT 10.14.
"""

import logging
import math
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptq_export.engines.base import DeviceTiming
from ptq_export.engines.cuda.runtime import Block, Event, Graph, Stream, copy
from ptq_export.engines.exported_layers import CALLS, WARMUP
from ptq_export.engines.trt.callbacks import messages_to, profiler_of
from ptq_export.errors import EnvironmentMissing

__all__ = ["Session"]

logger = logging.getLogger(__name__)
Shapes = Mapping[str, tuple[int, ...]]
ALIGNMENT = 256


class Session:
    """One plan, loaded; not to be called from two threads at once.

    All work is on a stream of its own: on the default stream TensorRT waits for the whole device at every step.
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
        self._stream, self._before, self._after = Stream(), Event(), Event()
        self._blocks: dict[str, Block] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._staged: list[NDArray[Any]] = []
        self._graph: Graph | None = None
        self._recordable = True

    def run(self, feeds: Mapping[str, NDArray[Any]], graph: bool) -> NDArray[Any]:
        """The output of arrays on the host, by way of buffers on the device."""
        self._stage(feeds)
        self._step(graph)
        result = np.empty(self._shapes[self.output], self.dtypes[self.output])
        self._blocks[self.output].write(result, self._stream.handle)
        self._stream.synchronise()
        return result

    def enqueue(self, addresses: Mapping[str, int], shapes: Shapes, stream: int, graph: bool) -> None:
        """Put one step behind what is on `stream`, and what comes on `stream` behind the step, reading and writing
        device memory at `addresses`; does not wait for it.

        A CUDA graph has addresses of its own: with `graph` the data is copied there and back, on the device. So it is
        where an address is not a multiple of 256, as that of a tensor's part may be.
        """
        own = self._stream.handle
        self._before.record(stream)
        self._before.hold(own)
        self._set_shapes(shapes)
        graph = graph and self._recordable
        if not graph and not any(address % ALIGNMENT for address in addresses.values()):
            self._execute(addresses)
        else:
            for name in self.inputs:
                copy(self._blocks[name].address, addresses[name], self._bytes(name), own)
            self._step(graph)
            copy(addresses[self.output], self._blocks[self.output].address, self._bytes(self.output), own)
        self._after.record(own)
        self._after.hold(stream)

    def timed_step(self, feeds: Mapping[str, NDArray[Any]], graph: bool) -> Callable[[], DeviceTiming]:
        """A function that computes the step of `feeds` again and times it; nothing is copied in it.

        One more step runs ahead of it, unmeasured: the GPU is busy while the host asks, as it is in a loop.
        """
        start, end, stream = Event(), Event(), self._stream.handle

        def step() -> DeviceTiming:
            self._stage_anew(feeds)
            self._step(graph)
            start.record(stream)
            began = time.perf_counter_ns()
            recorded = self._step(graph)
            enqueue_ms = (time.perf_counter_ns() - began) / 1e6
            end.record(stream)
            end.synchronise()
            return DeviceTiming(end.elapsed_ms(start), enqueue_ms, recorded)

        return step

    def step_loop(self, feeds: Mapping[str, NDArray[Any]], graph: bool) -> Callable[[int], None]:
        """A function that computes the step of `feeds` so many times and waits for the last."""

        def loop(count: int) -> None:
            self._stage_anew(feeds)
            for _ in range(count):
                self._step(graph)
            self._stream.synchronise()

        return loop

    def inspect(self) -> str:
        """TensorRT's own account of the engine's layers, as JSON."""
        inspector = self._engine.create_engine_inspector()
        inspector.execution_context = self._context
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def layer_times_ms(self, feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
        """Median milliseconds of each of the engine's layers, by its name."""
        self._stage(feeds)
        times_ms: dict[str, list[float]] = defaultdict(list)
        profiler = profiler_of(self._trt, times_ms)
        self._context.profiler = profiler
        try:
            for _ in range(WARMUP + CALLS):
                self._step(False)
                self._stream.synchronise()
        finally:  # a profiler cannot be taken off again
            self._graph, self._shapes = None, {}
            self._context = None  # gone before the next one comes: each holds the memory of all activations
            self._context = self._new_context()
        return {name: median(values[WARMUP:]) for name, values in times_ms.items()}

    def _new_context(self) -> Any:
        context = _create_context(self._trt, self._engine)
        if context is None:
            raise EnvironmentMissing("TensorRT cannot make an execution context", "free some GPU memory")
        return context

    def _stage(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Copy inputs to their buffers. The arrays stay until the next ones come, and whoever calls waits for the
        stream before: a copy may still be reading them."""
        arrays = {name: np.ascontiguousarray(feeds[name], self.dtypes[name]) for name in self.inputs}
        self._set_shapes({name: array.shape for name, array in arrays.items()})
        self._staged = list(arrays.values())
        for name, array in arrays.items():
            self._blocks[name].read(array, self._stream.handle)

    def _stage_anew(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Have the inputs of a step that is timed in their buffers, and the stream empty."""
        if any(self._shapes.get(name) != array.shape for name, array in feeds.items()):
            self._stage(feeds)
        self._stream.synchronise()

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

    def _step(self, graph: bool) -> bool:
        """One step on the buffers; the first with these shapes is run plainly and then recorded. Whether a recording
        was launched."""
        if graph and self._graph is not None:
            self._graph.launch(self._stream.handle)
            return True
        addresses = {name: block.address for name, block in self._blocks.items()}
        self._execute(addresses)
        if graph and self._recordable and self._has_all_kernels():
            self._record(addresses)
        return False

    def _record(self, addresses: Mapping[str, int]) -> None:
        """Record the step that has just run, on the stream where it ran. Not every plan can be recorded (trtexec goes
        on without a graph, too): one that cannot is not tried again."""
        self._stream.synchronise()
        try:
            self._graph = Graph(lambda _: self._execute(addresses), self._stream)
        except EnvironmentMissing as error:
            self._recordable = False
            logger.warning("this plan cannot be a CUDA graph, its steps are launched plainly: %s", error.cause)

    def _has_all_kernels(self) -> bool:
        # TensorRT for RTX may still be compiling some.
        asked = getattr(self._context, "is_stream_capturable", None)
        return asked is None or bool(asked(self._stream.handle))

    def _execute(self, addresses: Mapping[str, int]) -> None:
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)
        if not self._context.execute_async_v3(self._stream.handle):
            raise EnvironmentMissing("TensorRT failed to run a step", "see its messages above")


def _create_context(trt: Any, engine: Any) -> Any:
    """An execution context. TensorRT for RTX compiles for a batch when it first meets it, not in the background: what
    is timed is what stays."""
    if not hasattr(trt, "DynamicShapesKernelSpecializationStrategy"):
        return engine.create_execution_context()
    settings = engine.create_runtime_config()
    settings.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
    return engine.create_execution_context(settings)
