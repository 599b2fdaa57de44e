"""Interleaved timing in one process: every round calls every candidate once, so that disturbances hit all alike."""

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from ptq_export.benchmarks.timing.stats import MIN_ROUNDS, Latency

__all__ = ["Protocol", "call_order", "interleave", "wall_ms"]

Call: TypeAlias = Callable[[], Any]


@dataclass(frozen=True)
class Protocol:
    """How long to measure: `warmup` untimed calls each, then rounds until both minima are reached.

    Where that would take more than `max_seconds`, as many rounds as fit, `fewest` at least: by default as many as a
    VALID verdict needs.
    """

    warmup: int = 5
    min_rounds: int = 30
    min_seconds: float = 5.0
    max_seconds: float = math.inf
    fewest: int = MIN_ROUNDS

    def fitted(self, round_s: float) -> "Protocol":
        """The protocol for rounds that take so many seconds each."""
        if round_s * (self.warmup + self.min_rounds) <= self.max_seconds:
            return self
        rounds = max(self.fewest, int(self.max_seconds / round_s) - 2)
        return replace(self, warmup=min(self.warmup, 2), min_rounds=min(self.min_rounds, rounds))

    def to_json(self) -> dict[str, Any]:
        """`protocol` in `latency.json`."""
        limit = {} if math.isinf(self.max_seconds) else {"max_seconds": self.max_seconds}
        return {"warmup": self.warmup, "min_rounds": self.min_rounds, "min_seconds": self.min_seconds} | limit


def wall_ms(call: Call) -> float:
    """Milliseconds that a call takes."""
    started = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - started) / 1e6


def interleave(
    candidates: Mapping[str, Call],
    protocol: Protocol,
    progress: Callable[[float], None] | None = None,
    duration_ms: Callable[[Call], float] = wall_ms,
) -> dict[str, Latency]:
    """Time the candidates in interleaved rounds; `progress` hears the share done, between rounds.

    The second untimed round tells whether the protocol's rounds would take too long.

    `duration_ms` makes one call and tells its duration: by default the wall clock does. Garbage collection is off while
    the clock runs. Engines should not leave threads spinning after a call: they would slow down whoever is called next.
    """
    names = tuple(candidates)
    samples: dict[str, list[float]] = {name: [] for name in names}
    with _no_garbage_collection():
        round_s = 0.0
        for _ in range(min(2, protocol.warmup)):  # in the first of them engines may prepare themselves
            round_s = sum(wall_ms(candidates[name]) for name in names) / 1e3
        protocol = protocol.fitted(round_s)
        for name in names * (protocol.warmup - 2):
            candidates[name]()
        started = time.perf_counter()
        done, rounds = 0.0, 0
        while done < 1:
            for name in call_order(names, rounds):
                samples[name].append(duration_ms(candidates[name]))
            rounds += 1
            done = min(_share(rounds, protocol.min_rounds), _share(time.perf_counter() - started, protocol.min_seconds))
            if progress is not None:
                progress(done)
    return {name: Latency.from_samples(values) for name, values in samples.items()}


def call_order(names: Sequence[str], index: int) -> list[str]:
    """The order of round `index`: the rows of a balanced Latin square (Williams 1949), then, if odd, their reverse.

    Everyone takes every position, and directly follows every other, equally often. Plain rotation would keep B behind
    A in two rounds of three.
    """
    count = len(names)
    zigzag = [(place + 1) // 2 * (1 if place % 2 else -1) for place in range(count)]  # 0, 1, -1, 2, -2, ...
    order = [names[(shift + index) % count] for shift in zigzag]
    return order[::-1] if count % 2 and index // count % 2 else order


def _share(value: float, minimum: float) -> float:
    return min(value / minimum, 1.0) if minimum > 0 else 1.0


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
