"""A step of ONNX Runtime on arrays of the host, inputs and output bound by their addresses."""

from collections.abc import Callable
from functools import partial

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ptq_export.engines.base import Feeds

__all__ = ["bound_run"]

HOST = "cpu"


def bound_run(session: onnxruntime.InferenceSession, feeds: Feeds, out: NDArray[np.float32]) -> Callable[[], object]:
    """What computes the step of contiguous `feeds` into contiguous `out`, as long as both live.

    To bind takes longer than `session.run` does with a dictionary, which copies nothing either: it is for what is
    computed more than once.
    """
    binding = session.io_binding()
    for name, array in feeds.items():
        binding.bind_input(name, HOST, 0, array.dtype.type, array.shape, array.ctypes.data)
    [output] = session.get_outputs()
    binding.bind_output(output.name, HOST, 0, np.float32, out.shape, out.ctypes.data)
    return partial(session.run_with_iobinding, binding)
