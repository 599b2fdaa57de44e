"""What serving adds to a step of batch 1: the plain sampling loop beside the engine's thread, and beside HTTP.

    python -m ptq_export.benchmarks.serving.step_overhead RUN [--rounds 30]

All three draw the same picture in 100 steps, in turns; the first two in this process with one engine, the third by a
service of its own with another engine of the same run. The cores' time counts what else a machine does less.
"""

import asyncio
import queue
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
import psutil

from ptq_export.benchmarks.program import parser_of, run_program
from ptq_export.benchmarks.serving.load import ask, served
from ptq_export.command_options import Serving
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler
from ptq_export.serving.metrics import Metrics
from ptq_export.serving.model import load_models

__all__ = ["main"]

STEPS, WARMUP, BARE = 100, 2, 200


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
            calls = {"sampling loop": loop, "engine thread": thread, "HTTP": http}
            own, other = psutil.Process(), psutil.Process(server.pid)
            told = _told(_in_turns(calls, dict(zip(calls, (own, own, other), strict=True)), options.rounds))
        answer = np.zeros(model.batcher.engine.signature.output_shape(1), np.float32)
        model.batcher.engine.run = lambda feeds, out=None: answer  # type: ignore[method-assign]
        return [*told, _bare(loop, thread)]

    return run_program(measure)


@dataclass(frozen=True)
class _Spent:
    """Seconds of a picture: by the clock, and of all cores together."""

    wall: float
    cpu: float


def _in_turns(
    calls: dict[str, Callable[[], Any]], cpu: dict[str, psutil.Process], rounds: int
) -> dict[str, list[_Spent]]:
    found: dict[str, list[_Spent]] = {name: [] for name in calls}
    for number in range(rounds + WARMUP):
        for name, call in calls.items():
            before, began = _cpu_seconds(cpu[name]), time.perf_counter()
            call()
            wall = time.perf_counter() - began
            if number >= WARMUP:
                found[name].append(_Spent(wall, _cpu_seconds(cpu[name]) - before))
    return found


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _told(spent: dict[str, list[_Spent]]) -> list[str]:
    base = spent["sampling loop"]
    lines = []
    for name, own in spent.items():
        wall = median(a.wall / b.wall for a, b in zip(own, base, strict=True))
        cpu = sum(each.cpu for each in own) / sum(each.cpu for each in base)
        took = f"{median(each.wall for each in own) / STEPS * 1e3:.3f} ms a step ({100 * (wall - 1):+.1f} %)"
        cores = (
            f"{sum(each.cpu for each in own) / len(own) / STEPS * 1e3:.3f} ms of the cores ({100 * (cpu - 1):+.1f} %)"
        )
        lines.append(f"{name:>14}: {took}, {cores}")
    return lines


def _bare(loop: Callable[[], Any], thread: Callable[[], Any]) -> str:
    """What is left where the engine answers at once: the least of many pictures in turns, on a busy machine too."""
    spent = [(_cores(loop), _cores(thread)) for _ in range(BARE)]
    least_us = [min(column) / STEPS * 1e6 for column in zip(*spent, strict=True)]
    return "with an engine that answers at once: {:.0f} us of the cores a step, in the thread {:.0f} us".format(
        *least_us
    )


def _cores(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


if __name__ == "__main__":
    raise SystemExit(main())
