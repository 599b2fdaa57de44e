"""ONNX Runtime on tensors where they lie: inputs and outputs bound by address, on a stream that the caller can follow.

A session takes its stream when it is opened (`user_compute_stream`) and is told not to wait for it at the end of a run;
one that does not take it is waited for, and timed by the wall clock.
A CUDA graph is of one session, one batch size and fixed addresses (`enable_cuda_graph`, `trt_cuda_graph_enable`): it
gets a session and buffers of its own, and data is copied there and back on the device.
https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#using-cuda-graphs-preview
"""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ptq_export.engines.base import DeviceTiming
from ptq_export.engines.cuda.runtime import Event, Stream, copy

__all__ = ["BoundModel", "Buffers", "Region", "bind"]

logger = logging.getLogger(__name__)
DEVICE = "cuda"
TYPES: Mapping[str, type[np.generic]] = {"tensor(float)": np.float32, "tensor(int64)": np.int64}
OpenSession = Callable[[int, bool], onnxruntime.InferenceSession]
"""Opens the model's session on a stream, with or without its CUDA graph."""


@dataclass(frozen=True)
class Region:
    """A contiguous tensor at an address of the session's device."""

    address: int
    shape: tuple[int, ...]


def bind(session: onnxruntime.InferenceSession, regions: Mapping[str, Region], device: str = DEVICE) -> Any:
    """An `IOBinding` of every input and output of `session` to one of `regions`, by its name; nothing is copied."""
    binding = session.io_binding()
    for bound, ends in ((binding.bind_input, session.get_inputs()), (binding.bind_output, session.get_outputs())):
        for end in ends:
            region = regions[end.name]
            bound(end.name, device, 0, TYPES[end.type], region.shape, region.address)
    return binding


class Buffers:
    """Inputs and outputs of fixed shapes in ONNX Runtime's own memory on a device, and the session that is bound to
    them."""

    def __init__(
        self, session: onnxruntime.InferenceSession, shapes: Mapping[str, tuple[int, ...]], device: str = DEVICE
    ) -> None:
        self.session, self.shapes = session, dict(shapes)
        self._values = {
            end.name: onnxruntime.OrtValue.ortvalue_from_shape_and_type(shapes[end.name], TYPES[end.type], device, 0)
            for end in (*session.get_inputs(), *session.get_outputs())
        }
        self.regions = {name: Region(value.data_ptr(), shapes[name]) for name, value in self._values.items()}
        self.binding = bind(session, self.regions, device)

    def load(self, feeds: Mapping[str, NDArray[Any]]) -> None:
        """Copy arrays from the host to the inputs; waits for that."""
        for name, array in feeds.items():
            self._values[name].update_inplace(np.ascontiguousarray(array))

    def size_bytes(self, name: str) -> int:
        """Of one input or output."""
        return int(self._values[name].tensor_size_in_bytes())

    def fetch(self, name: str) -> NDArray[Any]:
        """What a buffer holds, on the host."""
        found: NDArray[Any] = self._values[name].numpy()
        return found


class BoundModel:
    """A model on a stream of its own; not to be called from two threads at once.

    `follows` says whether its session computes on that stream.
    """

    def __init__(self, open_session: OpenSession, device: str = DEVICE) -> None:
        self._stream, self._before, self._after = Stream(), Event(), Event()
        self._open, self._device = open_session, device
        self._session = open_session(self._stream.handle, False)
        taken = self._session.get_provider_options()[self._session.get_providers()[0]]
        self.follows = taken.get("user_compute_stream") == str(self._stream.handle)
        self._options = onnxruntime.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        self._recorded: Buffers | None = None
        self._recordable = True

    def enqueue(self, regions: Mapping[str, Region], stream: int, graph: bool) -> None:
        """Put one step behind what is on `stream`, and what comes on `stream` behind the step."""
        self._before.record(stream)
        self._before.hold(self._stream.handle)
        if not (graph and self._replay(regions)):
            self._run(self._session, bind(self._session, regions, self._device))
        self._after.record(self._stream.handle)
        self._after.hold(stream)

    def timed_step(
        self, feeds: Mapping[str, NDArray[Any]], output: str, shape: tuple[int, ...], graph: bool
    ) -> Callable[[], DeviceTiming]:
        """A function that computes the step of `feeds` again and times it; nothing is copied in it.

        By CUDA events on the session's stream, and one more step runs ahead, unmeasured: the GPU is busy while the host
        asks, as it is in a loop. Where the session has no stream of ours, by the wall clock until it is done.
        """
        buffers = self._loaded(feeds, output, shape, graph)
        recorded = buffers is self._recorded
        start, end, stream = Event(), Event(), self._stream.handle

        def step_by_wall_clock() -> DeviceTiming:
            began = time.perf_counter_ns()
            self._run(buffers.session, buffers.binding)
            total_ms = (time.perf_counter_ns() - began) / 1e6
            return DeviceTiming(total_ms, total_ms, recorded, by_events=False)

        def step_by_events() -> DeviceTiming:
            self._stream.synchronise()
            self._run(buffers.session, buffers.binding)
            start.record(stream)
            began = time.perf_counter_ns()
            self._run(buffers.session, buffers.binding)
            enqueue_ms = (time.perf_counter_ns() - began) / 1e6
            end.record(stream)
            end.synchronise()
            return DeviceTiming(end.elapsed_ms(start), enqueue_ms, recorded)

        step = step_by_events if self.follows else step_by_wall_clock
        step()
        return step

    def step_loop(
        self, feeds: Mapping[str, NDArray[Any]], output: str, shape: tuple[int, ...], graph: bool
    ) -> Callable[[int], None]:
        """A function that computes the step of `feeds` so many times and waits for the last."""
        buffers = self._loaded(feeds, output, shape, graph)

        def loop(count: int) -> None:
            for _ in range(count):
                self._run(buffers.session, buffers.binding)
            self._stream.synchronise()

        return loop

    def _loaded(self, feeds: Mapping[str, NDArray[Any]], output: str, shape: tuple[int, ...], graph: bool) -> Buffers:
        """Buffers that hold `feeds`: those of the recording, or others where there is none."""
        shapes = {name: array.shape for name, array in feeds.items()} | {output: shape}
        recorded = self._recording(shapes, lambda buffers: buffers.load(feeds)) if graph else None
        if recorded is not None:
            return recorded
        buffers = Buffers(self._session, shapes, self._device)
        buffers.load(feeds)
        return buffers

    def _replay(self, regions: Mapping[str, Region]) -> bool:
        """A step by way of the buffers that the graph of these shapes reads and writes; False where there is none."""
        stream = self._stream.handle
        outputs = {end.name for end in self._session.get_outputs()}

        def fill(buffers: Buffers) -> None:
            for name in regions.keys() - outputs:
                copy(buffers.regions[name].address, regions[name].address, buffers.size_bytes(name), stream)

        buffers = self._recording({name: region.shape for name, region in regions.items()}, fill)
        if buffers is None:
            return False
        self._run(buffers.session, buffers.binding)
        for name in outputs:
            copy(regions[name].address, buffers.regions[name].address, buffers.size_bytes(name), stream)
        return True

    def _recording(self, shapes: Mapping[str, tuple[int, ...]], fill: Callable[[Buffers], None]) -> Buffers | None:
        """Buffers of these shapes, filled, and the session that has recorded its first run on them and launches that
        from then on. None where ONNX Runtime refuses to, since a part of the graph is left to another provider, or
        where the run cannot be recorded: that is told and not tried again."""
        if self._recorded is not None and self._recorded.shapes == shapes:
            fill(self._recorded)
            return self._recorded
        if not self._recordable:
            return None
        self._recorded = None
        try:
            buffers = Buffers(self._open(self._stream.handle, True), shapes, self._device)
            fill(buffers)
            self._run(buffers.session, buffers.binding)
            self._stream.synchronise()
        except Exception as error:  # ONNX Runtime's own exceptions have no base class of theirs
            self._recordable = False
            logger.warning("no CUDA graph, steps are launched plainly: %s", getattr(error, "cause", error))
            return None
        self._recorded = buffers
        return buffers

    def _run(self, session: onnxruntime.InferenceSession, binding: Any) -> None:
        if self.follows:
            session.run_with_iobinding(binding, self._options)
            return
        self._stream.synchronise()
        session.run_with_iobinding(binding)
