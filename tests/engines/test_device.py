"""The CUDA runtime through cuda-python: without a GPU every call ends in CUDA's own words, with one it works."""

from collections.abc import Callable
from importlib.util import find_spec
from types import SimpleNamespace

import numpy as np
import pytest

from ptq_export.engines.cuda import runtime as device
from ptq_export.engines.cuda.driver import count_gpus, missing_gpu
from ptq_export.engines.cuda.runtime import Block, Event, Graph, Stream, free_bytes, runtime_version
from ptq_export.errors import EnvironmentMissing

with_gpu = pytest.mark.skipif(count_gpus() == 0, reason=missing_gpu())
without_gpu = pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU here")
pytestmark = pytest.mark.skipif(find_spec("cuda") is None, reason="cuda-python is not installed")
ARRAY = np.arange(6, dtype=np.float32)


def test_the_version_of_the_runtime_needs_no_gpu() -> None:
    major, minor = runtime_version().split(".")
    assert int(major) >= 12 and int(minor) >= 0


@without_gpu
@pytest.mark.parametrize(
    "call",
    [
        Stream,
        Event,
        free_bytes,
        lambda: Block(16),
        lambda: Graph(print, SimpleNamespace(handle=2)),
        lambda: device.copy(1, ARRAY.ctypes.data, 4, 0),
        lambda: device._call("cudaEventRecord", device._cuda().cudaEvent_t(1), 2),
        lambda: device._call("cudaStreamWaitEvent", 2, device._cuda().cudaEvent_t(1), 0),
        lambda: device._call("cudaEventElapsedTime", *[device._cuda().cudaEvent_t(1)] * 2),
        lambda: device._call("cudaGraphInstantiate", device._cuda().cudaGraph_t(1), 0),
        lambda: device._call("cudaGraphLaunch", device._cuda().cudaGraphExec_t(1), 2),
        lambda: device._call("cudaStreamEndCapture", 2),
    ],
)
def test_without_a_gpu_cuda_says_so(call: Callable[[], object]) -> None:
    """Which shows, too, that the bindings take our arguments."""
    with pytest.raises(EnvironmentMissing, match=r"cuda\w+: .+") as caught:
        call()
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("error", [0, 900])
def test_what_breaks_off_a_recording_is_told_and_not_what_cuda_makes_of_it(
    error: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    destroyed: list[str | None] = []
    forgotten: list[int] = []
    runtime = SimpleNamespace(
        cudaStreamCaptureMode=SimpleNamespace(cudaStreamCaptureModeRelaxed=2),
        cudaStreamBeginCapture=lambda stream, mode: (0,),
        cudaStreamEndCapture=lambda stream: (error, None if error else "partial"),
        cudaGraphDestroy=destroyed.append,
        cudaGetLastError=lambda: forgotten.append(error),
    )
    monkeypatch.setattr(device, "_cuda", lambda: runtime)

    def refuse(stream: int) -> None:
        raise EnvironmentMissing("TensorRT failed to run a step", "see its messages above")

    with pytest.raises(EnvironmentMissing, match="TensorRT failed"):
        Graph(refuse, SimpleNamespace(handle=7))
    assert destroyed == ([] if error else ["partial"]) and forgotten == [error]


@pytest.mark.gpu
@with_gpu
def test_what_goes_to_the_device_comes_back() -> None:
    stream, block, found = Stream(), Block(ARRAY.nbytes), np.zeros_like(ARRAY)
    block.read(ARRAY, stream.handle)
    block.write(found, stream.handle)
    stream.synchronise()
    assert np.array_equal(found, ARRAY)


@pytest.mark.gpu
@with_gpu
def test_events_time_what_lies_between_them() -> None:
    stream, events = Stream(), (Event(), Event())
    for event in events:
        event.record(stream.handle)
    events[1].synchronise()
    assert 0 <= events[1].elapsed_ms(events[0]) < 10


@pytest.mark.gpu
@with_gpu
def test_a_graph_repeats_what_was_recorded() -> None:
    first, second, stream, found = Block(ARRAY.nbytes), Block(ARRAY.nbytes), Stream(), np.zeros_like(ARRAY)
    graph = Graph(lambda recording: device.copy(second.address, first.address, ARRAY.nbytes, recording), stream)
    for factor in (1, 2):
        first.read(factor * ARRAY, stream.handle)
        graph.launch(stream.handle)
        second.write(found, stream.handle)
        stream.synchronise()
        assert np.array_equal(found, factor * ARRAY)


@pytest.mark.gpu
@with_gpu
def test_a_recording_that_is_broken_off_leaves_the_stream_usable() -> None:
    stream, block, found = Stream(), Block(ARRAY.nbytes), np.zeros_like(ARRAY)
    with pytest.raises(EnvironmentMissing, match="cudaStreamSynchronize"):
        Graph(lambda _: stream.synchronise(), stream)  # which no recording may hold
    block.read(ARRAY, stream.handle)
    block.write(found, stream.handle)
    stream.synchronise()
    assert np.array_equal(found, ARRAY)
