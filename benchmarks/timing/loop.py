"""The whole sampling loop end to end: what a user waits for, and the share of it spent outside the engine.

`measure_loop` counts as outside what the scheduler does; `measure_overhead` also what the engine itself does in Python
around its runtime.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import Tensor

from ptq_export.benchmarks.timing.clock import Protocol, interleave
from ptq_export.benchmarks.timing.stats import Latency
from ptq_export.conditions import UNCONDITIONAL, Conditions
from ptq_export.denoiser import NoiseSchedule
from ptq_export.engines.base import Engine
from ptq_export.pairs import Pairs
from ptq_export.sampling import EpsModel, Step, initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler, visited_timesteps

__all__ = ["LoopLatency", "LoopOverhead", "LoopTiming", "measure_loop", "measure_overhead"]


@dataclass(frozen=True)
class LoopTiming:
    """Medians over the rounds; `outside_share` is the scheduler's and the loop's part of the time, 0 to 1."""

    total_s: float
    per_step_ms: float
    outside_share: float


@dataclass(frozen=True)
class LoopLatency:
    """An S-step loop of one sampler at one batch size, so many `rounds` of it."""

    sampler: str
    steps: int
    batch: int
    rounds: int
    candidates: Mapping[str, LoopTiming]

    def to_json(self) -> dict[str, Any]:
        """An entry of `loops` in `latency.json`."""
        candidates = {
            name: {key: round(value, 6) for key, value in asdict(timing).items()}
            for name, timing in self.candidates.items()
        }
        told = {"sampler": self.sampler, "steps": self.steps, "batch": self.batch, "rounds": self.rounds}
        return told | {"candidates": candidates}


def measure_loop(
    engines: Mapping[str, EpsModel],
    sampler: str,
    schedule: NoiseSchedule,
    steps: int,
    shape: tuple[int, ...],
    protocol: Protocol,
    conditions: Conditions = UNCONDITIONAL,
    progress: Callable[[float], None] | None = None,
) -> LoopLatency:
    """Time `steps` steps of `sampler` from noise of `shape` `[N, ...]`, interleaved over the engines."""
    watches = {name: _Stopwatch(engine) for name, engine in engines.items()}
    calls = len(visited_timesteps(schedule, steps, sampler))
    noise = initial_noise(shape, seed=0)

    def loop(watch: _Stopwatch) -> Callable[[], object]:
        scheduler = make_scheduler(schedule, sampler)

        def call() -> None:
            watch.runs_ms.append(0.0)
            sample_loop(watch, scheduler, noise, steps, conditions)

        return call

    latencies = interleave({name: loop(watch) for name, watch in watches.items()}, protocol, progress)
    timings = {}
    for name, latency in latencies.items():
        inside = np.array(watches[name].runs_ms[-latency.n :])
        outside_share = float(np.median(1 - inside / np.array(latency.raw_ms)))
        timings[name] = LoopTiming(latency.median_ms / 1e3, latency.median_ms / calls, outside_share)
    rounds = min(latency.n for latency in latencies.values())
    return LoopLatency(sampler, steps, shape[0], rounds, timings)


@dataclass(frozen=True)
class LoopOverhead:
    """An S-step loop around an engine, and the calls of its runtime that this loop makes, alone."""

    steps: int
    batch: int
    loop: Latency
    runtime: Latency

    @property
    def share(self) -> float:
        """By how much the loop is longer than its calls, 0.02 for two per cent: of the least of each, since what
        disturbs a machine only adds, and to one of the two at a time."""
        return self.loop.min_ms / self.runtime.min_ms - 1

    def to_json(self) -> dict[str, Any]:
        """The least of the rounds, and the share."""
        figures = {"loop_ms": self.loop.min_ms, "runtime_ms": self.runtime.min_ms, "share": self.share}
        return {"steps": self.steps, "batch": self.batch} | {name: round(it, 6) for name, it in figures.items()}


def measure_overhead(
    engine: Engine,
    schedule: NoiseSchedule,
    steps: int,
    batch: int,
    protocol: Protocol,
    conditions: Conditions = UNCONDITIONAL,
) -> LoopOverhead:
    """Time a loop of `batch` samples, and the same `steps` inputs given to `engine.run`, in interleaved rounds."""
    noise = initial_noise((batch, *engine.sample_shape), seed=0)
    inputs = []

    def record(step: Step) -> None:
        pairs = Pairs(step.sample, schedule.timesteps([step.timestep] * batch), conditions)
        inputs.append({name: value.numpy() for name, value in pairs.feeds.items()})

    sample_loop(engine, make_scheduler(schedule), noise, steps, conditions, callback=record)

    def loop() -> None:
        sample_loop(engine, make_scheduler(schedule), noise, steps, conditions)

    def runtime() -> None:
        for feeds in inputs:
            engine.run(feeds)

    latencies = interleave({"loop": loop, "runtime": runtime}, protocol)
    return LoopOverhead(steps, batch, latencies["loop"], latencies["runtime"])


class _Stopwatch:
    """An engine that adds up the time spent in it, per run of the loop."""

    def __init__(self, engine: EpsModel) -> None:
        self.engine = engine
        self.runs_ms: list[float] = []

    def __call__(self, sample: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        started = time.perf_counter_ns()
        eps = self.engine(sample, timestep, **conditions)
        self.runs_ms[-1] += (time.perf_counter_ns() - started) / 1e6
        return eps
