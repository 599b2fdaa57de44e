"""Ten minutes at twice the load that the service can bear: no accepted request is lost, and /healthz always answers.

    python -m ptq_export.benchmarks.serving.soak RUN [--minutes 10]

The rate that it can bear is measured first, by clients that ask again when they are answered; then requests arrive at
random at twice that rate, whatever the answers are. Exit code 1 where a request has neither a picture nor a refusal
that says when to come again, or where /healthz took a second.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence

from ptq_export.benchmarks.program import parser_of, run_program
from ptq_export.benchmarks.serving.load import Call, ask, clients, p95, probe, served
from ptq_export.errors import GateFailed

__all__ = ["main"]

STEPS, QUEUE, OVERLOAD = (4, 10, 20, 50), 64, 2.0
LONGEST_PROBE_S = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = parser_of("soak", __doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="default: 10")
    options = parser.parse_args(arguments)

    def measure() -> list[str]:
        with served(options.run, "--queue", str(QUEUE)) as server:
            calls = clients(server.port, QUEUE // 2, 15.0, lambda number: {"steps": STEPS[number % len(STEPS)]})
            rate = len(calls) / (max(it.began + it.seconds for it in calls) - min(it.began for it in calls))
            found, probes = asyncio.run(_load(server.port, OVERLOAD * rate, 60 * options.minutes))
            left = server.metric("ptq_slots_in_use") + server.metric("ptq_queue_pictures")
        return _told(rate, found, probes, left)

    return run_program(measure)


async def _load(port: int, rate: float, seconds: float) -> tuple[list[Call], list[Call]]:
    """Every request at this rate, and every probe of /healthz, one after the other."""
    end = time.perf_counter() + seconds
    tasks: list[asyncio.Task[Call]] = []
    probes: list[Call] = []
    draw = random.Random(0)

    async def look() -> None:
        while time.perf_counter() < end:
            probes.append(await probe(port, "/healthz"))
            await asyncio.sleep(0.2)

    looking = asyncio.create_task(look())
    while time.perf_counter() < end:
        await asyncio.sleep(draw.expovariate(rate))
        tasks.append(asyncio.create_task(ask(port, steps=draw.choice(STEPS), seed=len(tasks))))
    await looking
    return list(await asyncio.gather(*tasks)), probes


def _told(rate: float, calls: list[Call], probes: list[Call], left: float) -> list[str]:
    statuses = Counter(call.status for call in calls)
    unasked = sum(call.status == 429 and call.retry_after_s < 1 for call in calls)
    done = [call.seconds for call in calls if call.status == 200]
    slowest, late = max(call.seconds for call in probes), p95([call.seconds for call in probes])
    answered = sum(call.status == 200 for call in probes)
    told = [
        f"it bears {rate:.1f} requests/s; {len(calls)} were sent, at {OVERLOAD:g}x that rate",
        f"{statuses[200]} pictures (p95 {p95(done):.2f} s), {statuses[429]} refused with Retry-After",
        f"/healthz: {answered} of {len(probes)} answered, p95 {late * 1e3:.0f} ms, slowest {slowest * 1e3:.0f} ms"
        f"; {left:.0f} slots in use at the end",
    ]
    healthy = answered == len(probes) and slowest < LONGEST_PROBE_S
    if {*statuses} - {200, 429} or unasked or left or not healthy:
        raise GateFailed("\n".join([*told, f"statuses: {dict(statuses)}"]))
    return told


if __name__ == "__main__":
    raise SystemExit(main())
