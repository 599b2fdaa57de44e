"""The worker's side of a measurement: models that were opened there, called by name."""

import gc
import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from ptq_export.benchmarks.peers.runtimes import RUNTIMES, Call, Feeds
from ptq_export.benchmarks.peers.subject import Subject

__all__ = ["close_models", "eps", "open_model", "step_ms"]


@dataclass
class _Model:
    call: Call
    inputs: Iterator[Feeds]


_MODELS: dict[str, _Model] = {}


def open_model(
    name: str,
    runtime: str,
    subject: Subject,
    file: Path | None,
    cache: Path,
    batch: int,
    threads: int,
    inputs: Sequence[Feeds],
) -> int:
    """Open a model as `name`; `step_ms` will go round `inputs`. Returns how many layers it computes in int8."""
    opened = RUNTIMES[runtime].open(subject, file, cache, batch, threads)
    _MODELS[name] = _Model(opened.call, itertools.cycle(inputs))
    return opened.int8_layers


def eps(name: str, feeds: Feeds) -> NDArray[Any]:
    """eps of a batch."""
    return _MODELS[name].call(feeds)


def step_ms(name: str) -> float:
    """Milliseconds of a denoising step that follows another one of the same model, as it does in a sampling loop."""
    model = _MODELS[name]
    model.call(next(model.inputs))
    inputs = next(model.inputs)
    gc.disable()
    started = time.perf_counter_ns()
    model.call(inputs)
    spent_ms = (time.perf_counter_ns() - started) / 1e6
    gc.enable()
    return spent_ms


def close_models() -> None:
    """Forget all of them."""
    _MODELS.clear()
    gc.collect()
