"""The same engine behind LitServe's request batching: 32 clients, pictures of 20 steps, and of 4 to 50.

    pip install --target lit litserve
    python -m ptq_export.benchmarks.serving.beside_litserve RUN --packages lit [--rounds 3] [--seconds 15]

LitServe is no dependency of ours: its packages lie in a folder of their own. It gathers requests into a batch and
answers them together, so requests of other numbers of steps go through one loop after the other there. Both services
have the same threads and the same largest batch, and take turns.
"""

import asyncio
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ptq_export.benchmarks.program import parser_of, run_program
from ptq_export.benchmarks.serving.load import Call, ask, clients, served, started
from ptq_export.benchmarks.serving.throughput import summary
from ptq_export.errors import GateFailed

__all__ = ["main"]

LOADING_S = 120
MIXES = {"20 steps": (20,), "4, 10, 20 and 50 steps": (4, 10, 20, 50)}


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = parser_of("beside_litserve", __doc__)
    parser.add_argument("--packages", type=Path, required=True, help="the folder with LitServe")
    parser.add_argument("--rounds", type=int, default=3, help="default: 3")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each service in a round (default: 15)")
    parser.add_argument("--clients", type=int, default=32, help="default: 32")
    parser.add_argument("--max-batch", type=int, default=8, help="default: 8")
    options = parser.parse_args(arguments)

    def measure() -> list[str]:
        rows = str(options.max_batch)
        rival = [sys.executable, "-m", "ptq_export.benchmarks.serving.litserve_server", str(options.run), rows]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(options.packages), os.environ.get("PYTHONPATH", "")])}
        lines = []
        with served(options.run, "--max-batch", rows) as ours, started(rival, env) as theirs:
            _await_workers(theirs.port)
            for name, steps in MIXES.items():
                found: dict[str, list[list[Call]]] = {"ptq-export serve": [], "LitServe": []}
                fields = lambda number, steps=steps: _fields(number, steps)  # noqa: E731
                for _ in range(options.rounds):
                    found["ptq-export serve"].append(clients(ours.port, options.clients, options.seconds, fields))
                    calls = clients(theirs.port, options.clients, options.seconds, fields, "/predict")
                    found["LitServe"].append(calls)
                lines += [f"{name}:", *summary(found)]
        return lines

    return run_program(measure)


def _await_workers(port: int) -> None:
    """LitServe listens before its worker has loaded the engine."""
    end = time.monotonic() + LOADING_S
    while asyncio.run(ask(port, "/predict", **_fields(0, (1,)))).status != 200:
        if time.monotonic() > end:
            raise GateFailed("LitServe does not answer")
        time.sleep(0.5)


def _fields(number: int, steps: tuple[int, ...]) -> dict[str, Any]:
    return {"steps": steps[number % len(steps)], "seed": number}


if __name__ == "__main__":
    raise SystemExit(main())
