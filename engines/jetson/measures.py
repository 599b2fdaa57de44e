"""From a step that can be called to its latency and its energy: loops, percentiles, warnings, text."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import tegrastats

__all__ = ["energy", "keep_busy", "latency", "lines", "summary", "warnings"]

UNSTABLE = 1.5
HOST_BOUND = 1.3


def latency(step: Callable[[], None], cuda: Any, warmup: int, steps: int) -> dict[str, dict[str, float]]:
    """Milliseconds per step: `wall`, from the call until the stream is empty, and `gpu`, between two CUDA events."""
    begin, end = cuda.event(), cuda.event()
    wall: list[float] = []
    gpu: list[float] = []
    for index in range(warmup + steps):
        started = time.perf_counter()
        cuda.record(begin)
        step()
        cuda.record(end)
        cuda.synchronise()
        if index >= warmup:
            wall.append((time.perf_counter() - started) * 1e3)
            gpu.append(cuda.elapsed_ms(begin, end))
    return {"wall": summary(wall), "gpu": summary(gpu)}


def summary(values: Sequence[float]) -> dict[str, float]:
    """Count, least, median, the higher percentiles and the greatest of some milliseconds."""
    ordered = sorted(values)
    cuts = {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (90, 95, 99)}
    found = {"n": len(ordered), "min": ordered[0], "median": statistics.median(ordered), **cuts, "max": ordered[-1]}
    return {name: round(value, 4) for name, value in found.items()}


def keep_busy(step: Callable[[], None], cuda: Any, seconds: float) -> tuple[int, float, float]:
    """Step after step for so long: how many there were, when they began and ended (`time.monotonic()`)."""
    begin = end = time.monotonic()
    count = 0
    while end - begin < seconds:
        step()
        cuda.synchronise()
        count += 1
        end = time.monotonic()
    return count, begin, end


def energy(
    idle: Sequence[dict[str, int]], busy: Sequence[dict[str, int]], steps: int, seconds: float
) -> dict[str, Any] | None:
    """Millijoules per step of the whole module, and above what it draws idle; None where its power is not known."""
    found = [power for power in map(tegrastats.module_power_mw, busy) if power is not None]
    if not found:
        return None
    busy_mw = statistics.mean(power for power, _ in found)
    still = [power[0] for power in map(tegrastats.module_power_mw, idle) if power is not None]
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


def warnings(timing: dict[str, dict[str, float]], clock_mhz: Sequence[int] | None, note: str) -> list[str]:
    """What makes the figures hard to compare with others."""
    found = [note] if note else []
    if clock_mhz is None:
        found.append("the GPU's clock range is unknown: run sudo jetson_clocks for figures that can be repeated")
    elif clock_mhz[0] != clock_mhz[1]:
        span = f"{clock_mhz[0]} to {clock_mhz[1]} MHz"
        found.append(f"the GPU's clock is not fixed ({span}): sudo jetson_clocks fixes it")
    if timing["gpu"]["p99"] > UNSTABLE * timing["gpu"]["median"]:
        found.append("unstable: the 99th percentile is far above the median")
    if timing["wall"]["median"] > HOST_BOUND * timing["gpu"]["median"]:
        found.append("host-bound: the CPU takes longer to start a step than the GPU to compute it")
    return found


def lines(report: dict[str, Any]) -> list[str]:
    """The report as text."""
    where, clock = report["device"], report["gpu_clock_mhz"]
    mode = report["power_mode"] or "unknown"
    shown = [
        f"{where['board']}, L4T {where['l4t']}, TensorRT {where['tensorrt']}, power mode {mode}"
        + (f", GPU {clock[0]}-{clock[1]} MHz" if clock else ""),
        f"one denoising step, batch {report['batch']}, milliseconds:",
        "          " + "".join(f"{name:>9}" for name in ("min", "median", "p90", "p95", "p99", "max")),
    ]
    for name, row in report["latency_ms"].items():
        figures = "".join(f"{row[key]:9.3f}" for key in ("min", "median", "p90", "p95", "p99", "max"))
        shown.append(f"    {name:<6}{figures}")
    power = report["energy"]
    if power:
        above = "" if power["above_idle_mj"] is None else f", {power['above_idle_mj']} mJ above idle"
        shown.append(f"energy per step: {power['per_step_mj']} mJ{above} (module at {power['busy_mw']} mW)")
    return shown + [f"warning: {text}" for text in report["warnings"]]
