"""From measurements to what is said of them: the comparison, what makes it doubtful, and the text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import measures

__all__ = ["compare", "lines", "warnings"]

UNSTABLE = 1.5
HOST_BOUND = 1.3
LEAST_SAMPLES = 10
_COLUMNS = ("min", "median", "p90", "p95", "p99", "max")


def compare(timings: dict[str, Any], energies: dict[str, Any]) -> dict[str, Any] | None:
    """How many times as long (`gpu`, `wall`) and as much energy fp16 takes as int8; None without a baseline."""
    if "fp16" not in timings:
        return None
    found: dict[str, Any] = {
        clock: measures.ratio(timings["fp16"][clock], timings["int8"][clock]) for clock in ("gpu", "wall")
    }
    int8, fp16 = energies.get("int8"), energies.get("fp16")
    found["energy"] = round(fp16["per_step_mj"] / int8["per_step_mj"], 4) if int8 and fp16 else None
    return found


def warnings(report: dict[str, Any], clock_mhz: Sequence[int] | None, notes: Sequence[str]) -> list[str]:
    """`notes`, and what makes the figures hard to compare with others."""
    found = list(notes)
    if clock_mhz is None:
        found.append("the GPU's clock range is unknown: run sudo jetson_clocks for figures that can be repeated")
    elif clock_mhz[0] != clock_mhz[1]:
        span = f"{clock_mhz[0]} to {clock_mhz[1]} MHz"
        found.append(f"the GPU's clock is not fixed ({span}): sudo jetson_clocks fixes it")
    for name, entry in report["engines"].items():
        timing, energy = entry["latency_ms"], entry["energy"]
        if timing["gpu"]["p99"] > UNSTABLE * timing["gpu"]["median"]:
            found.append(f"{name} is unstable: its 99th percentile is far above the median")
        if timing["wall"]["median"] > HOST_BOUND * timing["gpu"]["median"]:
            found.append(f"{name} is host-bound: the CPU takes longer to start a step than the GPU to compute it")
        if energy and energy["samples"] < LEAST_SAMPLES:
            found.append(f"only {energy['samples']} power samples of {name}: raise --seconds")
    compared = report["fp16_over_int8"]
    if compared and compared["gpu"]["high"] < 1:
        found.append("int8 is slower than fp16 here: try a larger batch, else serve baseline.plan")
    elif compared and compared["gpu"]["low"] <= 1:
        found.append("no difference between int8 and fp16 was shown: raise --rounds, or try a larger batch")
    return found


def lines(report: dict[str, Any]) -> list[str]:
    """The report as text."""
    where, clock = report["device"], report["gpu_clock_mhz"]
    mode = report["power_mode"] or "unknown"
    engines, compared = report["engines"], report["fp16_over_int8"]
    shown = [
        f"{where['board']}, L4T {where['l4t']}, TensorRT {where['tensorrt']}, power mode {mode}"
        + (f", GPU {clock[0]}-{clock[1]} MHz" if clock else ""),
        f"one denoising step, batch {report['batch']}{', int8 and fp16 in turns' if compared else ''}, "
        f"{' and '.join(dict.fromkeys(entry['launch'] for entry in engines.values()))}, milliseconds:",
        " " * 16 + "".join(f"{name:>9}" for name in _COLUMNS),
    ]
    for name, entry in engines.items():
        for clock_name, row in entry["latency_ms"].items():
            shown.append(f"    {name:<6}{clock_name:<6}" + "".join(f"{row[key]:9.3f}" for key in _COLUMNS))
    if compared:
        gpu, wall = compared["gpu"], compared["wall"]
        interval = f"95 %: {gpu['low']:.2f} to {gpu['high']:.2f}"
        shown.append(f"int8 is {gpu['ratio']:.2f} times as fast as fp16 on the GPU ({interval})")
        shown.append(f"     and {wall['ratio']:.2f} times as fast with the host's part of a step")
    for name, energy in ((name, entry["energy"]) for name, entry in engines.items() if entry["energy"]):
        above = "" if energy["above_idle_mj"] is None else f", {energy['above_idle_mj']} mJ above idle"
        shown.append(f"energy per step, {name}: {energy['per_step_mj']} mJ{above} (module at {energy['busy_mw']} mW)")
    if compared and compared["energy"]:
        shown.append(f"fp16 takes {compared['energy']:.2f} times the energy of int8")
    if report["power"]:
        shown.append(f"module: {' + '.join(report['power']['rails'])}, by {report['power']['monitor']}")
    return shown + [f"warning: {text}" for text in report["warnings"]]
