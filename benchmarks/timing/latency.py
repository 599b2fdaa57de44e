"""Latency per denoising step, candidate against baselines, and everything else that `latency.json` holds.

    python -m ptq_export.benchmarks.timing.latency RUN

measures a finished run folder again, on this machine: it is `ptq-export bench RUN`.
"""

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from ptq_export.benchmarks.environment import Environment
from ptq_export.benchmarks.timing.clock import Protocol, interleave
from ptq_export.benchmarks.timing.stats import Latency, Verdict, judge
from ptq_export.pairs import Pairs
from ptq_export.sampling import EpsModel

__all__ = ["LatencyReport", "StepLatency", "main", "measure_steps"]


@dataclass(frozen=True)
class StepLatency:
    """One denoising step at one batch size, all candidates in the same rounds; the first is the one to judge.

    `protocol` is what was asked for: fewer rounds than that were timed where they would have taken too long.
    """

    batch: int
    candidates: Mapping[str, Latency]
    verdict: Verdict
    protocol: Protocol

    def to_json(self) -> dict[str, Any]:
        """An entry of `steps` in `latency.json`; `shortened` where there are fewer rounds than were asked for."""
        candidates = {name: latency.to_json() for name, latency in self.candidates.items()}
        rounds = min(latency.n for latency in self.candidates.values())
        told = {"batch": self.batch, "candidates": candidates} | self.verdict.to_json()
        return told | {"rounds": rounds, "shortened": rounds < self.protocol.min_rounds}


@dataclass(frozen=True)
class LatencyReport:
    """The content of `latency.json`; its parts as JSON, since each is kept when it is finished: `steps` of
    `StepLatency`, `loops` of `loop.LoopLatency`, and `gpu`, what only a GPU's clock tells, of `gpu_clock.GpuStep`.

    The verdict is that of `judged_batch`.
    """

    environment: Environment
    protocol: Protocol
    steps: Sequence[Mapping[str, Any]]
    loops: Sequence[Mapping[str, Any]]
    size_bytes: Mapping[str, int]
    peak_memory_bytes: Mapping[str, int | None]
    judged_batch: int
    gpu: Sequence[Mapping[str, Any]] = ()

    def to_json(self) -> dict[str, Any]:
        """The file's JSON object."""
        return {
            "environment": self.environment.to_json(),
            "protocol": self.protocol.to_json(),
            "steps": list(self.steps),
            "loops": list(self.loops),
            "size_bytes": dict(self.size_bytes),
            "peak_memory_bytes": dict(self.peak_memory_bytes),
            "judged_batch": self.judged_batch,
        } | ({"gpu": list(self.gpu)} if self.gpu else {})


def measure_steps(
    engines: Mapping[str, EpsModel],
    pairs: Sequence[Pairs],
    protocol: Protocol,
    timesteps: Sequence[float],
    progress: Callable[[float], None] | None = None,
) -> list[StepLatency]:
    """Time one denoising step of every engine on each of `pairs`, one batch size each.

    The engines get the same samples and conditions, and walk through the same `timesteps`, one per round.
    """
    results = []
    for index, each in enumerate(pairs):
        calls = {name: _step_call(engine, each, timesteps) for name, engine in engines.items()}
        with torch.no_grad():
            latencies = interleave(calls, protocol, _part(progress, index, len(pairs)))
        results.append(StepLatency(len(each), latencies, judge(latencies), protocol))
    return results


def main() -> None:
    """The command `ptq-export bench` under this module's name."""
    # By name: as a program this module stands above the command line, as a library below it.
    command_line = import_module("ptq_export.cli")
    command_line.app(["bench", *sys.argv[1:]], prog_name="ptq-export")


def _step_call(engine: EpsModel, pairs: Pairs, timesteps: Sequence[float]) -> Callable[[], object]:
    times = itertools.cycle([torch.full((len(pairs),), t, dtype=pairs.timestep.dtype) for t in timesteps])
    return lambda: engine(pairs.sample, next(times), **pairs.conditions)


def _part(progress: Callable[[float], None] | None, index: int, count: int) -> Callable[[float], None] | None:
    return None if progress is None else lambda done: progress((index + done) / count)


if __name__ == "__main__":
    main()
