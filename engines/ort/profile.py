"""How long ONNX Runtime spends in each node, from its own profiler."""

import json
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from ptq_export.engines.exported_layers import CALLS, WARMUP

__all__ = ["node_times_ms"]


def node_times_ms(session: onnxruntime.InferenceSession, feeds: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Median milliseconds per call in the kernel of each node of a session that was opened with profiling on.

    The session cannot be profiled again; its log file is removed.
    """
    for _ in range(WARMUP + CALLS):
        session.run(None, dict(feeds))
    log = Path(session.end_profiling())
    events = json.loads(log.read_text())
    log.unlink()
    calls_ms: dict[str, list[float]] = {}
    for event in events:
        node = event["name"].removesuffix("_kernel_time")
        if event["cat"] == "Node" and node != event["name"]:
            calls_ms.setdefault(node, []).append(event["dur"] / 1e3)
    return {node: median(durations[WARMUP:]) for node, durations in calls_ms.items()}
