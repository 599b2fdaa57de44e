"""Which requests share the next step.

1. They are served in the order of their due times: arrival + `PATIENCE` x the time that the request takes alone. A
   short one overtakes long ones; nobody is overtaken by what arrives after its due time, so nobody starves.
2. A step holds the first of them and those behind it of the same kind, as many as give the best rows per second.
3. Who is first and much shorter than others (`SHORT`) takes them along only while it still ends within `STRETCH` x the
   time that it takes alone. Requests of similar length share without limit.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from ptq_export.serving.step_times import StepTimes

__all__ = ["PATIENCE", "SHORT", "STRETCH", "Candidate", "choose", "due"]

PATIENCE = 8.0
SHORT = 4
STRETCH = 1.6


class Candidate(Protocol):
    """A request as the order sees it."""

    arrived: float
    rows: int
    calls: int
    due: float

    @property
    def calls_left(self) -> int:
        """How often it calls the network from here on."""

    @property
    def kind(self) -> Any:
        """Those of one kind fit into one batch."""


def due(arrived: float, calls: int, rows: int, times: StepTimes) -> float:
    """When a request has been patient enough."""
    return arrived + PATIENCE * calls * times.seconds(rows)


def choose(candidates: Iterable[Candidate], most: int, times: StepTimes, now: float) -> Sequence[Any]:
    """Those that share the next step, at most `most` rows in all (one request at least)."""
    ordered = sorted(candidates, key=lambda each: each.due)
    if not ordered:
        return []
    first = ordered[0]
    chosen, rows = [first], first.rows
    spare_s = _longest_step(first, times, now)
    for each in ordered[1:]:
        if rows + each.rows > most or each.kind != first.kind:
            continue
        if each.calls >= SHORT * first.calls and times.seconds(rows + each.rows) > spare_s:
            continue
        chosen.append(each)
        rows += each.rows
    return chosen


def _longest_step(first: Candidate, times: StepTimes, now: float) -> float:
    """How long its steps may take for it to end in time; as long as alone where that cannot be any more."""
    alone = times.seconds(first.rows)
    left_s = first.arrived + STRETCH * first.calls * alone - now
    return max(left_s / max(first.calls_left, 1), alone)
