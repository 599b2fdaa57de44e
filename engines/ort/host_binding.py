"""A step of ONNX Runtime on arrays of the host where they lie: inputs and output bound by their addresses."""

import threading
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ptq_export.engines.base import Feeds

__all__ = ["HostBinding"]

HOST = "cpu"


class HostBinding(threading.local):
    """The binding of a session's inputs and its output, one for each thread that computes steps.

    What lies where the last step of that thread read or wrote it, in the same shape, is not bound again: a loop over
    buffers of its own binds once.
    """

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self._session, self._binding = session, session.io_binding()
        [self._output] = [end.name for end in session.get_outputs()]
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}

    def run(self, feeds: Feeds, out: NDArray[np.float32]) -> None:
        """Compute the step of contiguous `feeds` into contiguous `out`; nothing is copied."""
        for name, array in feeds.items():
            self._bind(self._binding.bind_input, name, array)
        self._bind(self._binding.bind_output, self._output, out)
        self._session.run_with_iobinding(self._binding)

    def _bind(self, bind: Any, name: str, array: NDArray[Any]) -> None:
        place = array.__array_interface__["data"][0], array.shape
        if self._places.get(name) != place:
            bind(name, HOST, 0, array.dtype.type, array.shape, place[0])
            self._places[name] = place
