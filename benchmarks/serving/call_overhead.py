"""What a call of an engine takes besides its runtime: checks, `out=`, and a step bound to the caller's memory.

    python -m ptq_export.benchmarks.serving.call_overhead RUN [--which ort-fp32] [--rounds 2000]

All ways compute the same step of batch 1 in one process, in turns; the first is the runtime's own call on arrays that
were checked.
"""

import time
from collections.abc import Callable, Sequence
from statistics import quantiles
from typing import Any

import numpy as np

from ptq_export.benchmarks.program import parser_of, run_program
from ptq_export.engines.base import EngineOptions
from ptq_export.engines.feeds import zeros
from ptq_export.engines.load import load_engine

__all__ = ["main"]

WARMUP = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = parser_of("call_overhead", __doc__)
    parser.add_argument("--rounds", type=int, default=2000, help="default: 2000")
    parser.add_argument("--which", help="an engine of the run beside its own, for instance ort-fp32")
    options = parser.parse_args(arguments)

    def measure() -> list[str]:
        engine = load_engine(options.run, options.which, EngineOptions(threads=1))
        feeds = zeros(engine.signature.inputs, 1)
        out = np.empty(engine.signature.output_shape(1), np.float32)
        own = {name: value.copy() for name, value in feeds.items()}
        ways: dict[str, Callable[[], Any]] = {
            "run, checked before": lambda: engine.run(feeds),
            "call": lambda: engine(**feeds),
            "call with out": lambda: engine(**feeds, out=out),
            "bound step": engine.bind(**own, out=out.copy()),
        }
        return _told(_in_turns(ways, options.rounds))

    return run_program(measure)


def _in_turns(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds + WARMUP):
        for name, way in ways.items():
            began = time.perf_counter_ns()
            way()
            found[name].append((time.perf_counter_ns() - began) / 1e3)
    return {name: times[WARMUP:] for name, times in found.items()}


def _told(times_us: dict[str, list[float]]) -> list[str]:
    first = next(iter(times_us.values()))
    lines = []
    for name, spent in times_us.items():
        low, middle = quantiles(spent, n=10)[0], quantiles(spent, n=2)[0]
        beside = quantiles([one - other for one, other in zip(spent, first, strict=True)], n=2)[0]
        lines.append(f"{name:20} {low:8.1f} us at best (10 %), {middle:8.1f} median, {beside:+7.1f} beside the first")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
