"""What TensorRT calls back: its log goes to ours, the times of its layers into a dictionary.

TensorRT is never imported here: its base classes come with the module that is given.
"""

import logging
from collections.abc import Mapping
from typing import Any

__all__ = ["messages_to", "profiler_of"]

logger = logging.getLogger(__name__)


def messages_to(trt: Any, heard: list[str]) -> Any:
    """A logger for TensorRT: errors are kept in `heard` too."""

    class Listener(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            serious = severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR)
            if serious:
                heard.append(message)
            logger.log(logging.ERROR if serious else logging.DEBUG, "TensorRT: %s", message)

    return Listener()


def profiler_of(trt: Any, times_ms: Mapping[str, list[float]]) -> Any:
    """A profiler that appends the milliseconds of each layer to its list in `times_ms`."""

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            times_ms[layer_name].append(ms)

    return Profiler()
