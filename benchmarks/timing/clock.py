"""Interleaved timing in one process: every round calls every candidate once, so that disturbances hit all alike."""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

from ptq_export.benchmarks.timing.stats import Latency

__all__ = ["Protocol", "call_order", "interleave", "wall_ms"]

Call: TypeAlias = Callable[[], Any]


@dataclass(frozen=True)
class Protocol:
    """How long to measure: `warmup` untimed calls each, then rounds until both minima are reached."""

    warmup: int = 5
    min_rounds: int = 30
    min_seconds: float = 5.0

    def to_json(self) -> dict[str, Any]:
        """`protocol` in `latency.json`."""
        return asdict(self)


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

    `duration_ms` makes one call and tells its duration: by default the wall clock does. Garbage collection is off while
    the clock runs. Engines should not leave threads spinning after a call: they would slow down whoever is called next.
    """
    names = tuple(candidates)
    samples: dict[str, list[float]] = {name: [] for name in names}
    with _no_garbage_collection():
        for name in names * protocol.warmup:
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
