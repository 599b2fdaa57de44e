"""10,000 requests, a fifth of whose clients leave: every slot is free again, and the memory is what it was.

    python -m ptq_export.benchmarks.serving.disconnects RUN [--requests 10000]

Memory is compared after the first fifth, which has seen every path, and at the end. Exit code 1 where a slot is left,
a request that was waited for has no answer, or the memory has grown by more than 5 %.
"""

import asyncio
import random
import time
from collections.abc import Sequence
from typing import Any

from ptq_export.benchmarks.program import parser_of, run_program
from ptq_export.benchmarks.serving.load import Served, ask, leave, served
from ptq_export.errors import GateFailed

__all__ = ["main"]

AT_A_TIME, LEAVING, GROWTH = 64, 0.2, 1.05
STEPS = (1, 2, 4, 5)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = parser_of("disconnects", __doc__)
    parser.add_argument("--requests", type=int, default=10_000, help="default: 10000")
    options = parser.parse_args(arguments)

    def measure() -> list[str]:
        with served(options.run) as server:
            asyncio.run(_some(server, 0, options.requests // 5))
            before = server.rss_bytes
            lost = asyncio.run(_some(server, options.requests // 5, options.requests))
            time.sleep(0.5)
            after = server.rss_bytes
            left = server.metric("ptq_slots_in_use") + server.metric("ptq_queue_pictures")
            finished, gone = (_outcome(server, name) for name in ("finished", "disconnected"))
        told = f"{finished} finished, {gone} clients left, {lost} lost; {left:.0f} slots in use at the end"
        memory = f"memory {before / 2**20:.0f} MiB after a fifth, {after / 2**20:.0f} MiB at the end"
        if left or lost or after > GROWTH * before:
            raise GateFailed(f"{told}; {memory} ({after / before - 1:+.1%})")
        return [told, f"{memory} ({after / before - 1:+.1%})"]

    return run_program(measure)


async def _some(server: Served, first: int, end: int) -> int:
    """How many of the requests first..end-1 that were waited for have no picture."""
    gate, draw, lost = asyncio.Semaphore(AT_A_TIME), random.Random(first), 0

    async def one(number: int) -> None:
        nonlocal lost
        fields: dict[str, Any] = {
            "steps": STEPS[number % len(STEPS)],
            "seed": number,
            "stream": number % 3 == 0,
            "partial_images": 2,
        }
        async with gate:
            if draw.random() < LEAVING:
                await leave(server.port, draw.uniform(0.0, 0.3), **{**fields, "steps": 50})
            else:
                lost += (await ask(server.port, **fields)).status != 200

    await asyncio.gather(*(one(number) for number in range(first, end)))
    return lost


def _outcome(server: Served, name: str) -> int:
    return int(server.metric("ptq_requests_total", f'outcome="{name}"'))


if __name__ == "__main__":
    raise SystemExit(main())
