"""The few calls of the CUDA runtime (11.4 or newer) that a benchmark needs, by ctypes: JetPack has no CUDA package."""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Callable
from typing import Any

__all__ = ["CudaError", "CudaRuntime"]

HOST_TO_DEVICE = 1
RELAXED = 2  # cudaStreamCaptureModeRelaxed
_MAJOR, _MINOR = 75, 76
_NAMES = ("libcudart.so", "libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")


class CudaError(RuntimeError):
    """The runtime is absent, or a call of it failed."""


class CudaRuntime:
    """Memory, one stream and events of device 0.

    Raises:
        CudaError: there is no CUDA runtime, or no device.
    """

    def __init__(self) -> None:
        self._library = _load()
        count = ctypes.c_int()
        self._call("cudaGetDeviceCount", ctypes.byref(count))
        stream = ctypes.c_void_p()
        self._call("cudaStreamCreate", ctypes.byref(stream))
        self.stream = int(stream.value or 0)

    def compute_capability(self) -> str:
        """`8.7` for Orin, `7.2` for Xavier, `11.0` for Thor."""
        parts = []
        for attribute in (_MAJOR, _MINOR):
            value = ctypes.c_int()
            self._call("cudaDeviceGetAttribute", ctypes.byref(value), attribute, 0)
            parts.append(str(value.value))
        return ".".join(parts)

    def allocate(self, size_bytes: int) -> int:
        """The address of new device memory."""
        pointer = ctypes.c_void_p()
        self._call("cudaMalloc", ctypes.byref(pointer), ctypes.c_size_t(size_bytes))
        return int(pointer.value or 0)

    def upload(self, address: int, content: bytes) -> None:
        """Copy bytes to device memory."""
        size = ctypes.c_size_t(len(content))
        self._call("cudaMemcpy", ctypes.c_void_p(address), ctypes.c_char_p(content), size, HOST_TO_DEVICE)

    def capture(self, enqueue: Callable[[], None]) -> int:
        """What `enqueue` puts on the stream, as one graph that can be launched; nothing of it is run.

        Raises:
            CudaError: it holds something that no graph can. The stream is as it was.
        """
        stream, graph, executable = ctypes.c_void_p(self.stream), ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cudaStreamBeginCapture", stream, RELAXED)
        try:
            enqueue()
        except BaseException:
            self._library.cudaStreamEndCapture(stream, ctypes.byref(graph))
            self._library.cudaGetLastError()
            raise
        self._call("cudaStreamEndCapture", stream, ctypes.byref(graph))
        self._call("cudaGraphInstantiateWithFlags", ctypes.byref(executable), graph, ctypes.c_ulonglong(0))
        self._call("cudaGraphDestroy", graph)
        return int(executable.value or 0)

    def launch(self, graph: int) -> None:
        """Put a captured graph on the stream."""
        self._call("cudaGraphLaunch", ctypes.c_void_p(graph), ctypes.c_void_p(self.stream))

    def event(self) -> int:
        """A new event."""
        event = ctypes.c_void_p()
        self._call("cudaEventCreate", ctypes.byref(event))
        return int(event.value or 0)

    def record(self, event: int) -> None:
        """Note the time when the stream gets there."""
        self._call("cudaEventRecord", ctypes.c_void_p(event), ctypes.c_void_p(self.stream))

    def synchronise(self) -> None:
        """Wait until the stream is empty."""
        self._call("cudaStreamSynchronize", ctypes.c_void_p(self.stream))

    def elapsed_ms(self, begin: int, end: int) -> float:
        """Milliseconds between two events that have passed."""
        value = ctypes.c_float()
        self._call("cudaEventElapsedTime", ctypes.byref(value), ctypes.c_void_p(begin), ctypes.c_void_p(end))
        return float(value.value)

    def _call(self, name: str, *arguments: Any) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            self._library.cudaGetErrorString.restype = ctypes.c_char_p
            raise CudaError(f"{name}: {self._library.cudaGetErrorString(code).decode()}")


def _load() -> Any:
    found = ctypes.util.find_library("cudart")
    for name in (*([found] if found else []), *_NAMES):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise CudaError("there is no CUDA runtime (libcudart): is its folder in LD_LIBRARY_PATH?")
