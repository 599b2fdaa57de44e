"""From steps that can be called to their latency and their energy: rounds, percentiles, ratios."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import power

__all__ = ["IDLE_S", "energies", "energy", "keep_busy", "latencies", "ratio", "summary"]

IDLE_S = 3.0
AHEAD_S = 0.02


def latencies(
    steps: dict[str, Callable[[], None]], cuda: Any, warmup: int, rounds: int
) -> dict[str, dict[str, list[float]]]:
    """Milliseconds of every step in every round: `wall`, from the call until the stream is empty, and `gpu`, between
    two CUDA events.

    A round calls each step once, in turns the one or the other first: clocks and disturbances hit both alike.
    """
    begin, end = cuda.event(), cuda.event()
    found: dict[str, dict[str, list[float]]] = {name: {"gpu": [], "wall": []} for name in steps}
    names = list(steps)
    for index in range(warmup + rounds):
        for name in names if index % 2 == 0 else reversed(names):
            started = time.perf_counter()
            cuda.record(begin)
            steps[name]()
            cuda.record(end)
            cuda.synchronise()
            if index >= warmup:
                found[name]["wall"].append((time.perf_counter() - started) * 1e3)
                found[name]["gpu"].append(cuda.elapsed_ms(begin, end))
    return found


def summary(values: Sequence[float]) -> dict[str, float]:
    """Count, least, median, the higher percentiles and the greatest of some milliseconds."""
    ordered = sorted(values)
    cuts = {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (90, 95, 99)}
    found = {"n": len(ordered), "min": ordered[0], "median": statistics.median(ordered), **cuts, "max": ordered[-1]}
    return {name: round(value, 4) for name, value in found.items()}


def ratio(above: Sequence[float], below: Sequence[float]) -> dict[str, float]:
    """The ratio of two medians, and the 95 % interval of the median of the rounds' own ratios: of n in order, those
    0.98 sqrt(n) places below and above the middle."""
    ordered = sorted(first / second for first, second in zip(above, below))  # noqa: B905
    middle, reach = (len(ordered) - 1) / 2, 0.98 * math.sqrt(len(ordered))
    low, high = max(0, math.floor(middle - reach)), min(len(ordered) - 1, math.ceil(middle + reach))
    found = {"ratio": statistics.median(above) / statistics.median(below), "low": ordered[low], "high": ordered[high]}
    return {name: round(value, 4) for name, value in found.items()}


def keep_busy(step: Callable[[], None], cuda: Any, seconds: float) -> tuple[int, float, float]:
    """Step after step for so long: how many there were, when they began and ended (`time.monotonic()`).

    The GPU is waited for some fifty times a second at most: a step that is waited for leaves it idle behind it.
    """
    begin = end = time.monotonic()
    count, ahead = 0, 1
    while end - begin < seconds:
        started = end
        for _ in range(ahead):
            step()
        cuda.synchronise()
        count += ahead
        end = time.monotonic()
        if end - started < AHEAD_S:
            ahead *= 2
    return count, begin, end


def energies(
    steps: dict[str, Callable[[], None]], cuda: Any, monitor: Any, interval_ms: int, seconds: float
) -> dict[str, Any]:
    """`energy` of every step, each repeated for that many seconds while `monitor` listens.

    In halves, and the second ones in reverse: a module that warms up favours nobody. What the monitor says at the
    beginning of a half may still be of the step before, and does not count.
    """
    begin = time.monotonic()
    time.sleep(IDLE_S)
    idle = monitor.between(begin, time.monotonic())
    busy: dict[str, list[dict[str, int]]] = {name: [] for name in steps}
    counts, durations = dict.fromkeys(steps, 0), dict.fromkeys(steps, 0.0)
    for name in [*steps, *reversed(list(steps))]:
        count, begin, end = keep_busy(steps[name], cuda, seconds / 2)
        busy[name] += monitor.between(begin + interval_ms / 1000, end)
        counts[name] += count
        durations[name] += end - begin
    return {name: energy(idle, busy[name], counts[name], durations[name]) for name in steps}


def energy(
    idle: Sequence[dict[str, int]], busy: Sequence[dict[str, int]], steps: int, seconds: float
) -> dict[str, Any] | None:
    """Millijoules per step of the whole module, and above what it draws idle; None where its power is not known."""
    found = [it for it in map(power.module_power_mw, busy) if it is not None]
    if not found:
        return None
    busy_mw = statistics.mean(milliwatts for milliwatts, _ in found)
    still = [it[0] for it in map(power.module_power_mw, idle) if it is not None]
    idle_mw = statistics.mean(still) if still else None
    return {
        "per_step_mj": round(busy_mw * seconds / steps, 3),
        "above_idle_mj": None if idle_mw is None else round((busy_mw - idle_mw) * seconds / steps, 3),
        "busy_mw": round(busy_mw),
        "idle_mw": None if idle_mw is None else round(idle_mw),
        "rails": list(found[0][1]),
        "samples": len(found),
        "steps": steps,
    }
