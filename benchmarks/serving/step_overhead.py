"""What serving adds to a step of batch 1: the plain sampling loop beside the engine's thread, and beside HTTP.

    python -m ptq_export.benchmarks.serving.step_overhead RUN [--rounds 30]

All three draw the same picture in 100 steps, in turns; the first two in this process with one engine, the third by a
service of its own with another engine of the same run.
"""

import asyncio
import queue
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from ptq_export.benchmarks.serving.load import ask, served
from ptq_export.benchmarks.serving.program import parser_of, run_program
from ptq_export.options import Serving
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler
from ptq_export.serving.metrics import Metrics
from ptq_export.serving.model import load_models

__all__ = ["main"]

STEPS = 100


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = parser_of("step_overhead", __doc__)
    parser.add_argument("--rounds", type=int, default=30, help="default: 30")
    options = parser.parse_args(arguments)

    def measure() -> list[str]:
        [model] = load_models(options.run, Serving(max_batch=1), Metrics()).values()
        asked = model.subject.generation(seed=0, steps=STEPS, sampler="ddim", conditions={})
        events: queue.Queue[Any] = queue.Queue()

        def loop() -> None:
            scheduler, shape = make_scheduler(model.subject.schedule, "ddim"), model.subject.signature.sample_shape
            sample_loop(model.batcher.engine, scheduler, initial_noise((1, *shape), 0), STEPS, asked.conditions)

        def thread() -> None:
            model.batcher.submit([asked], events.put)
            events.get()

        with served(options.run, "--max-batch", "1") as server:
            http = lambda: asyncio.run(ask(server.port, seed=0, steps=STEPS))  # noqa: E731
            times = _in_turns({"sampling loop": loop, "engine thread": thread, "HTTP": http}, options.rounds)
        return _told(times)

    return run_program(measure)


def _in_turns(calls: dict[str, Callable[[], Any]], rounds: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 2):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            if number >= 2:
                found[name].append(time.perf_counter() - began)
    return found


def _told(times: dict[str, list[float]]) -> list[str]:
    base = times["sampling loop"]
    lines = []
    for name, spent in times.items():
        ratio = median(own / other for own, other in zip(spent, base, strict=True))
        lines.append(f"{name:>14}: {median(spent) / STEPS * 1e3:.3f} ms a step, {100 * (ratio - 1):+.1f} %")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
