"""A step in C++ beside one in Python: the same run, batch and threads, in turns.

    python -m ptq_export.benchmarks.serving.cpp_step RUN PROGRAM [--batch 1] [--threads 1] [--rounds 60]

PROGRAM is `time_steps` of the C++ library's build folder (docs/serving/cpp.md). Each round calls both, the first of one
round second in the next; the ratio is that of the two medians of a round.
"""

import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np

from ptq_export.benchmarks.program import parser_of, run_program
from ptq_export.engines.base import EngineOptions
from ptq_export.engines.load import load_engine
from ptq_export.errors import InputError

__all__ = ["compare", "main"]

STEPS = 20
WARMUP = 3  # rounds


def compare(run: Path, program: Path, batch: int, threads: int, rounds: int) -> dict[str, float]:
    """Median milliseconds of a step in both, and how many times as long Python takes, with the quartiles over rounds.

    Raises:
        InputError: the program does not start, or `run` takes conditions.
    """
    engine = load_engine(run, options=EngineOptions(threads=threads))
    if engine.signature.conditions:
        raise InputError("the run's network takes conditions", "give an unconditional one")
    sample = np.random.default_rng(0).standard_normal((batch, *engine.sample_shape), dtype=np.float32)
    command = [str(program), str(run), str(batch), str(threads)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        asked, answers = process.stdin, process.stdout
        assert asked is not None and answers is not None
        if answers.readline() != "ready\n":
            raise InputError(f"{program} does not serve {run}", "its own words are above")

        def in_cpp() -> float:
            print(STEPS, file=asked, flush=True)
            return median(map(float, answers.readline().split()))

        def in_python() -> float:
            spent = []
            for _ in range(STEPS):
                began = time.perf_counter_ns()
                engine(sample, 500)
                spent.append((time.perf_counter_ns() - began) / 1e6)
            return median(spent)

        pairs = [_both(in_cpp, in_python, number) for number in range(WARMUP + rounds)][WARMUP:]
        asked.close()
    ratios = np.array([python / cpp for cpp, python in pairs])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
    cpp_ms, python_ms = (median(times) for times in zip(*pairs, strict=True))
    return {"cpp_ms": cpp_ms, "python_ms": python_ms, "ratio": middle, "low": low, "high": high}


def _both(first: Callable[[], float], second: Callable[[], float], number: int) -> tuple[float, float]:
    if number % 2:
        later = second()
        return first(), later
    return first(), second()


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = parser_of("cpp_step", __doc__)
    parser.add_argument("program", type=Path, metavar="PROGRAM", help="time_steps of the C++ library's build folder")
    for name, default in (("batch", 1), ("threads", 1), ("rounds", 60)):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default: {default}")
    given = parser.parse_args(arguments)

    def measure() -> list[str]:
        found = compare(given.run, given.program, given.batch, given.threads, given.rounds)
        times = f"C++ {found['cpp_ms']:.3f} ms, Python {found['python_ms']:.3f} ms"
        ratio = f"{found['ratio']:.3f} times as long (quartiles {found['low']:.3f} to {found['high']:.3f})"
        return [f"batch {given.batch}, {given.threads} threads: {times}", f"Python takes {ratio}"]

    return run_program(measure)


if __name__ == "__main__":
    raise SystemExit(main())
