"""A request of 4 steps behind one of 100, and behind 32 of them: its time over its time alone.

    python -m ptq_export.benchmarks.serving.fairness RUN [--rounds 20]

Alone, behind one and behind 32 take turns. The long ones are not waited for: their clients leave.
"""

import asyncio
from collections.abc import Sequence
from statistics import median

from ptq_export.benchmarks.program import parser_of, run_program
from ptq_export.benchmarks.serving.load import Served, ask, leave, p95, served

__all__ = ["main"]

SHORT, LONG = 4, 100
BEHIND = (0, 1, 32)
HEAD_START_S, GONE_S = 0.5, 0.3


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = parser_of("fairness", __doc__)
    parser.add_argument("--rounds", type=int, default=20, help="default: 20")
    options = parser.parse_args(arguments)

    def measure() -> list[str]:
        found: dict[int, list[float]] = {count: [] for count in BEHIND}
        with served(options.run) as server:
            for _ in range(options.rounds):
                for count, spent in found.items():
                    spent.append(asyncio.run(_behind(server, count)))
        return [_told(count, spent, found[0]) for count, spent in found.items()]

    return run_program(measure)


async def _behind(server: Served, count: int) -> float:
    """Seconds of the short one, `count` long ones under way."""
    long = [asyncio.create_task(leave(server.port, 60, steps=LONG, seed=number)) for number in range(count)]
    await asyncio.sleep(HEAD_START_S)
    found = await ask(server.port, steps=SHORT, seed=1)
    for task in long:
        task.cancel()
    await asyncio.gather(*long, return_exceptions=True)
    await asyncio.sleep(GONE_S)
    return found.seconds


def _told(count: int, spent: list[float], alone: list[float]) -> str:
    ratios = [own / other for own, other in zip(spent, alone, strict=True)]
    behind = f"behind {count} of {LONG} steps" if count else "alone"
    milliseconds = f"median {median(spent) * 1e3:.1f} ms, p95 {p95(spent) * 1e3:.1f} ms"
    return f"{SHORT} steps {behind:>22}: {milliseconds}; over alone: {median(ratios):.2f}x"


if __name__ == "__main__":
    raise SystemExit(main())
