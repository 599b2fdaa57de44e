"""32 clients that ask for pictures of 20 steps: batches of steps beside one request at a time.

    python -m ptq_export.benchmarks.serving.throughput RUN [--rounds 5] [--seconds 10] [--clients 32]

Two services of the same engine take turns; the second has --max-batch 1, which is one request after the other.
"""

from collections.abc import Sequence
from statistics import median
from typing import Any

from ptq_export.benchmarks.program import parser_of, run_program
from ptq_export.benchmarks.serving.load import Call, clients, p95, served

__all__ = ["main", "summary"]

STEPS = 20


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = parser_of("throughput", __doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each service in a round (default: 10)")
    parser.add_argument("--clients", type=int, default=32, help="default: 32")
    parser.add_argument("--max-batch", help="of the first service (default: its own choice)")
    options = parser.parse_args(arguments)

    def measure() -> list[str]:
        flags = ["--max-batch", options.max_batch] if options.max_batch else []
        found: dict[str, list[list[Call]]] = {"batches of steps": [], "one at a time": []}
        with served(options.run, *flags) as batching, served(options.run, "--max-batch", "1") as single:
            for _ in range(options.rounds):
                for name, server in zip(found, (batching, single), strict=True):
                    found[name].append(clients(server.port, options.clients, options.seconds, _fields))
            rows = batching.metric("ptq_batch_rows_sum") / batching.metric("ptq_batch_rows_count")
        return [*summary(found), f"rows of a batch, on average: {rows:.1f}"]

    return run_program(measure)


def summary(found: dict[str, list[list[Call]]]) -> list[str]:
    """A line per service, and the ratios of the first to the second, round by round."""
    rates = {name: [_rate(calls) for calls in rounds] for name, rounds in found.items()}
    late = {name: [p95([call.seconds for call in calls]) for calls in rounds] for name, rounds in found.items()}
    lines = []
    for name, rounds in found.items():
        middle = median(call.seconds for calls in rounds for call in calls)
        wrong = sum(call.status != 200 for calls in rounds for call in calls)
        lines.append(
            f"{name:>20}: {median(rates[name]):.2f} pictures/s, p50 {middle:.2f} s, p95 {median(late[name]):.2f} s"
            f", {wrong} not answered"
        )
    first, second = found
    faster = median(a / b for a, b in zip(rates[first], rates[second], strict=True))
    sooner = median(a / b for a, b in zip(late[first], late[second], strict=True))
    return [*lines, f"throughput {faster:.2f}x, p95 {sooner:.2f}x"]


def _rate(calls: list[Call]) -> float:
    """Pictures per second, from the first request to the last answer."""
    done = [call for call in calls if call.status == 200]
    return len(done) / max(_span(calls), 1e-9)


def _span(calls: list[Call]) -> float:
    return max(call.began + call.seconds for call in calls) - min(call.began for call in calls)


def _fields(number: int) -> dict[str, Any]:
    return {"steps": STEPS, "seed": number}


if __name__ == "__main__":
    raise SystemExit(main())
