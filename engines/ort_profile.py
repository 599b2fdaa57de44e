"""How long ONNX Runtime spends in each layer, from its own profiler."""

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptq_export.engines.ort import OrtEngine, open_session
from ptq_export.engines.ort_layers import layer_of_nodes
from ptq_export.interface import INPUTS

__all__ = ["layer_times_ms"]

WARMUP, CALLS = 3, 20


def layer_times_ms(engine: OrtEngine, inputs: Sequence[NDArray[Any]]) -> dict[str, float]:
    """Median milliseconds per call that `engine` spends in each conv and linear, by module path.

    `inputs` are its arguments. The layers' own kernels are counted, not the data movement between them.
    """
    feeds = {name: np.ascontiguousarray(value) for name, value in zip(INPUTS, inputs, strict=False)}
    with tempfile.TemporaryDirectory(prefix="ptq-export-") as folder:
        session = open_session(engine.optimised_path, engine.options, profile=Path(folder) / "profile")
        for _ in range(WARMUP + CALLS):
            session.run(None, feeds)
        events = json.loads(Path(session.end_profiling()).read_text())
    layers = layer_of_nodes(engine.source, engine.optimised_path)
    calls_ms: dict[str, list[float]] = {}
    for event in events:
        node = event["name"].removesuffix("_kernel_time")
        if event["cat"] == "Node" and node != event["name"] and node in layers:
            calls_ms.setdefault(node, []).append(event["dur"] / 1e3)
    times_ms: dict[str, float] = {}
    for node, durations in calls_ms.items():
        times_ms[layers[node]] = times_ms.get(layers[node], 0.0) + median(durations[WARMUP:])
    return times_ms
