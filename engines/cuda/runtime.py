"""Memory, streams, events and graphs of the CUDA runtime, through NVIDIA's own bindings (cuda-python).

Every error of CUDA is raised, and what was taken is given back when its object goes.
"""

import weakref
from collections.abc import Callable
from functools import cache
from importlib import import_module
from typing import Any

from numpy.typing import NDArray

from ptq_export.errors import EnvironmentMissing

__all__ = ["Block", "Event", "Graph", "Stream", "copy", "free_bytes", "runtime_version"]


class Stream:
    """A stream of its own that the default stream does not wait for; `handle` is its `cudaStream_t`."""

    def __init__(self) -> None:
        self.handle = int(_call("cudaStreamCreateWithFlags", _cuda().cudaStreamNonBlocking))
        # At the end of the process the driver takes it back: a session of ONNX Runtime on it may be gone later.
        weakref.finalize(self, _release, "cudaStreamDestroy", self.handle).atexit = False

    def synchronise(self) -> None:
        """Wait for everything that was put on it."""
        _call("cudaStreamSynchronize", self.handle)


class Event:
    """A point in a stream, with its time."""

    def __init__(self) -> None:
        self._event = _call("cudaEventCreate")
        weakref.finalize(self, _release, "cudaEventDestroy", self._event)

    def record(self, stream: int) -> None:
        """Put it behind everything that is on the stream so far."""
        _call("cudaEventRecord", self._event, stream)

    def synchronise(self) -> None:
        """Wait until the stream has come so far."""
        _call("cudaEventSynchronize", self._event)

    def elapsed_ms(self, since: "Event") -> float:
        """Milliseconds on the GPU between two events that have been reached; resolution about 0.5 microseconds."""
        return float(_call("cudaEventElapsedTime", since._event, self._event))

    def hold(self, stream: int) -> None:
        """Let what follows on `stream` wait for this event."""
        _call("cudaStreamWaitEvent", stream, self._event, 0)


class Block:
    """`size_bytes` of device memory at `address`."""

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes
        self.address = int(_call("cudaMalloc", size_bytes))
        weakref.finalize(self, _release, "cudaFree", self.address)

    def read(self, array: NDArray[Any], stream: int) -> None:
        """Copy from the host, a contiguous array."""
        copy(self.address, array.ctypes.data, array.nbytes, stream)

    def write(self, array: NDArray[Any], stream: int) -> None:
        """Copy to the host, into a contiguous array."""
        copy(array.ctypes.data, self.address, array.nbytes, stream)


class Graph:
    """What `enqueue` puts on a stream, recorded there once and launched as one.

    Whatever `enqueue` prepares lazily is prepared on that stream before: what allocates or waits cannot be recorded.
    """

    def __init__(self, enqueue: Callable[[int], None], stream: Stream) -> None:
        # Relaxed: what Python gives back in the meantime must not spoil the recording.
        _call("cudaStreamBeginCapture", stream.handle, _cuda().cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed)
        try:
            enqueue(stream.handle)
        except BaseException:  # which says more than CUDA's own error for a recording that was broken off
            error, partial = _cuda().cudaStreamEndCapture(stream.handle)
            if not error:
                _release("cudaGraphDestroy", partial)
            _cuda().cudaGetLastError()  # told: not to be found by whoever asks next
            raise
        recorded = _call("cudaStreamEndCapture", stream.handle)
        try:
            self._executable = _call("cudaGraphInstantiate", recorded, 0)
        finally:
            _release("cudaGraphDestroy", recorded)
        weakref.finalize(self, _release, "cudaGraphExecDestroy", self._executable)

    def launch(self, stream: int) -> None:
        """Put it on a stream."""
        _call("cudaGraphLaunch", self._executable, stream)


def copy(target: int, source: int, size_bytes: int, stream: int) -> None:
    """Copy between two addresses, each on the host or on the device."""
    _call("cudaMemcpyAsync", target, source, size_bytes, _cuda().cudaMemcpyKind.cudaMemcpyDefault, stream)


def free_bytes() -> int:
    """Device memory that nobody uses at this moment."""
    free, _ = _call("cudaMemGetInfo")
    return int(free)


def runtime_version() -> str:
    """The version of the CUDA runtime, e.g. `13.0`; needs no GPU."""
    version = int(_call("cudaRuntimeGetVersion"))
    return f"{version // 1000}.{version % 1000 // 10}"


@cache
def _cuda() -> Any:
    try:
        return import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise EnvironmentMissing("the package cuda-python is not installed", "pip install cuda-python") from error


def _call(function: str, *arguments: Any) -> Any:
    """The answer of a function of the CUDA runtime: nothing, a value, or several."""
    error, *answer = getattr(_cuda(), function)(*arguments)
    if error:
        _, text = _cuda().cudaGetErrorString(error)
        raise EnvironmentMissing(f"{function}: {text.decode()}", "see what nvidia-smi says")
    return answer[0] if len(answer) == 1 else answer


def _release(function: str, handle: Any) -> None:
    """Give back without complaint: at the end of the process CUDA may be gone already."""
    getattr(_cuda(), function)(handle)
