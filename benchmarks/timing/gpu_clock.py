"""Latency per denoising step on a GPU, by CUDA events: as one CUDA graph and kernel by kernel, and with transfers.

The events lie around the step alone: its inputs are on the device before, eps stays there, and another step runs ahead.
Two warnings as NVIDIA's trtexec gives them (https://github.com/NVIDIA/TensorRT/tree/main/samples/trtexec): host-bound,
where asking for the step takes more than 0.8 of the time of computing it, so that the GPU may wait; unstable, where its
times spread by more than 1 % of their mean, as clocks that are not locked let them. Two more are our own: not recorded,
where a step that was to be one CUDA graph was launched kernel by kernel; wall clock, where an engine took no stream of
ours, so that its times are the host's, from the call until the step is done.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ptq_export.benchmarks.timing.clock import Protocol, interleave
from ptq_export.benchmarks.timing.energy import Meter
from ptq_export.benchmarks.timing.latency import StepLatency
from ptq_export.benchmarks.timing.stats import Latency, judge
from ptq_export.engines.base import DeviceTiming, GpuEngine
from ptq_export.pairs import Pairs

__all__ = ["GpuStep", "GpuTiming", "Timed", "measure_gpu_steps", "race_gpu_steps"]

MAX_VARIATION = 0.01
MAX_ENQUEUE = 0.8


@dataclass(frozen=True)
class Timed:
    """One way to launch a step: time on the GPU, and the host's time to ask for it; `as_asked` is False where a step
    that was to be one CUDA graph was not, `by_events` where both are the wall clock's."""

    compute: Latency
    enqueue: Latency
    as_asked: bool = True
    by_events: bool = True

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of `host-bound`, `unstable`, `not recorded` and `wall clock` that hold."""
        variation = float(np.std(self.compute.raw_ms) / np.mean(self.compute.raw_ms))
        found = {
            "host-bound": self.by_events and self.enqueue.median_ms > MAX_ENQUEUE * self.compute.median_ms,
            "unstable": variation > MAX_VARIATION,
            "not recorded": not self.as_asked,
            "wall clock": not self.by_events,
        }
        return tuple(name for name, holds in found.items() if holds)

    def to_json(self) -> dict[str, Any]:
        """`graph` and `kernels` of a candidate in `latency.json`."""
        return {
            "compute": _figures(self.compute),
            "enqueue": _figures(self.enqueue),
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class GpuTiming:
    """A candidate at one batch size: its step as one CUDA graph, kernel by kernel, and with transfers from and to the
    host; `energy_mj` is what the whole board took per step, where NVML tells it."""

    graph: Timed
    kernels: Timed
    with_transfers: Latency
    energy_mj: float | None

    def to_json(self) -> dict[str, Any]:
        """An entry of `candidates` in `gpu` of `latency.json`."""
        return {
            "graph": self.graph.to_json(),
            "kernels": self.kernels.to_json(),
            "with_transfers": _figures(self.with_transfers),
            "energy_mj": None if self.energy_mj is None else round(self.energy_mj, 4),
        }


@dataclass(frozen=True)
class GpuStep:
    """One denoising step at one batch size, all candidates in the same rounds."""

    batch: int
    candidates: Mapping[str, GpuTiming]
    protocol: Protocol

    @property
    def step(self) -> StepLatency:
        """The step as one CUDA graph, as the CPU's clock would tell it: by this one candidates are judged."""
        latencies = {name: timing.graph.compute for name, timing in self.candidates.items()}
        return StepLatency(self.batch, latencies, judge(latencies), self.protocol)

    def to_json(self) -> dict[str, Any]:
        """An entry of `gpu` in `latency.json`."""
        return {"batch": self.batch, "candidates": {name: it.to_json() for name, it in self.candidates.items()}}


def measure_gpu_steps(
    engines: Mapping[str, GpuEngine],
    pairs: Sequence[Pairs],
    protocol: Protocol,
    energy: Meter | None = None,
    progress: Callable[[float], None] | None = None,
) -> list[GpuStep]:
    """Time one denoising step of every engine on each of `pairs`, one batch size each, in interleaved rounds.

    `energy` meters each engine alone, over single steps launched as one CUDA graph each.
    """
    results, parts = [], itertools.count()

    def part() -> Callable[[float], None] | None:
        index = next(parts)
        return None if progress is None else lambda done: progress((index + done) / (3 * len(pairs)))

    for each in pairs:
        feeds = _arrays(each)
        steps = {name: engine.timed_step(True, feeds) for name, engine in engines.items()}
        graph = _timed(steps, True, protocol, part())
        plain = {name: engine.timed_step(False, feeds) for name, engine in engines.items()}
        kernels = _timed(plain, False, protocol, part())
        whole = interleave({name: partial(engine, **feeds) for name, engine in engines.items()}, protocol, part())
        energy_mj = {name: energy and energy(engine.step_loop(True, feeds)) for name, engine in engines.items()}
        timings = {name: GpuTiming(graph[name], kernels[name], whole[name], energy_mj[name]) for name in engines}
        results.append(GpuStep(len(each), timings, protocol))
    return results


def race_gpu_steps(engines: Mapping[str, GpuEngine], pairs: Pairs, protocol: Protocol) -> dict[str, Latency]:
    """One denoising step of every engine as one CUDA graph, by events, in interleaved rounds: for choosing, not for a
    report."""
    feeds = _arrays(pairs)
    steps = {name: engine.timed_step(True, feeds) for name, engine in engines.items()}
    return {name: timed.compute for name, timed in _timed(steps, True, protocol, None).items()}


def _arrays(pairs: Pairs) -> dict[str, NDArray[Any]]:
    return {name: value.numpy() for name, value in pairs.feeds.items()}


def _timed(
    steps: Mapping[str, Callable[[], DeviceTiming]],
    graph: bool,
    protocol: Protocol,
    progress: Callable[[float], None] | None,
) -> dict[str, Timed]:
    timings: dict[str, list[DeviceTiming]] = {name: [] for name in steps}

    def noted(name: str) -> float:
        timings[name].append(steps[name]())
        return timings[name][-1].compute_ms

    calls = {name: partial(noted, name) for name in steps}
    compute = interleave(calls, protocol, progress, duration_ms=lambda call: call())
    kept = {name: timings[name][-compute[name].n :] for name in steps}
    return {
        name: Timed(
            compute[name],
            Latency.from_samples([it.enqueue_ms for it in kept[name]]),
            not graph or all(it.recorded for it in kept[name]),
            all(it.by_events for it in kept[name]),
        )
        for name in steps
    }


def _figures(latency: Latency) -> dict[str, Any]:
    return {key: value for key, value in latency.to_json().items() if key != "raw_ms"}
