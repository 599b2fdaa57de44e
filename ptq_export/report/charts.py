"""The charts of a run as plain values, computed from its JSON files; `macros.html.j2` draws them as inline SVG."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ptq_export.report.axes import (
    HEIGHT_PX,
    Column,
    Point,
    Scale,
    Tick,
    columns,
    linear_ticks,
    log_ticks,
    svg_path,
    timestep_end,
    timestep_scale,
    timestep_ticks,
    vertical_scale,
)
from ptq_export.report.tables import curve_names, engine_name
from ptq_export.report.units import decibel, milliseconds, percent, precision_label, signed

__all__ = ["Bar", "Curve", "Plot", "histogram", "latency_bars", "parity_plot", "sqnr_plot", "step_error_plot"]

Json = Mapping[str, Any]
HISTOGRAM_BARS = 40
RUG_MARKS = 160


@dataclass(frozen=True)
class Curve:
    """`path` is drawn in a box 1000 wide; `points` and `failed` are its markers in (%, px)."""

    name: str
    style: str
    path: str
    points: list[Point]
    failed: list[Point] = field(default_factory=list)


@dataclass(frozen=True)
class Plot:
    """All that is needed to draw one chart; `bars` are `(x %, width %, y px, height px)`, `band` is a closed path."""

    label: str
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    columns: list[Column]
    curves: list[Curve] = field(default_factory=list)
    bars: list[tuple[float, float, float, float]] = field(default_factory=list)
    band: str = ""
    height_px: int = HEIGHT_PX


@dataclass(frozen=True)
class Bar:
    """One candidate's latency: lengths in percent of its batch's axis; `rug` are the raw rounds in a box 1000 wide."""

    name: str
    style: str
    median: str
    p90: str
    median_at: float
    p90_at: float
    rug: str
    tip: str


def latency_bars(step: Json) -> list[Bar]:
    """The candidates of one batch (`latency.json`, `steps[i]`): the engine, its baseline, further baselines."""
    axis_ms = 1.04 * max(timing["p90_ms"] for timing in step["candidates"].values())
    styles = ["int8", "fp32", *["unfolded"] * len(step["candidates"])]
    candidates = step["candidates"].items()
    return [
        _latency_bar(name, style, timing, axis_ms) for (name, timing), style in zip(candidates, styles, strict=False)
    ]


def _latency_bar(name: str, style: str, timing: Json, axis_ms: float) -> Bar:
    rounds = sorted(timing["raw_ms"])
    marks = [value for value in rounds[:: max(1, len(rounds) // RUG_MARKS)] if value <= axis_ms]
    label = precision_label(name)
    shown = {key: milliseconds(timing[f"{key}_ms"]) for key in ("median", "p90", "p99", "min")}
    return Bar(
        name=label,
        style=style,
        median=shown["median"],
        p90=shown["p90"],
        median_at=round(100 * timing["median_ms"] / axis_ms, 2),
        p90_at=round(100 * timing["p90_ms"] / axis_ms, 2),
        rug="".join(f"M{1000 * value / axis_ms:.1f} 0v4" for value in marks),
        tip="\n".join([f"{label}, {timing['n']} rounds", *(f"{key} {value} ms" for key, value in shown.items())]),
    )


def sqnr_plot(fidelity: Json) -> Plot:
    """SQNR of the network's output in dB over the time-step, one curve per model."""
    values = _curve_values(fidelity, "sqnr_db")
    ticks = linear_ticks([value for series in values.values() for value in series])
    y = vertical_scale(ticks[0], ticks[-1])
    y_ticks = [Tick(y(value), f"{value:g}") for value in ticks]
    tips = _curve_tips(fidelity, values, lambda value: f"{decibel(value)} dB")
    return _curve_plot(
        "SQNR of the network's output per time-step, in dB",
        fidelity["timesteps"],
        _drawn(fidelity, values, y),
        y_ticks,
        tips,
    )


def step_error_plot(fidelity: Json) -> Plot:
    """Relative error that each step adds to x_{t-1}, on a logarithmic axis; exact steps are left out."""
    values = _curve_values(fidelity, "step_error")
    ticks = log_ticks([value for series in values.values() for value in series])
    scale = vertical_scale(math.log10(ticks[0]), math.log10(ticks[-1]))

    def y(value: float) -> float:
        return scale(math.log10(value)) if value > 0 else math.nan

    y_ticks = [Tick(y(value), f"{100 * value:g} %") for value in ticks]
    tips = _curve_tips(fidelity, values, percent)
    label = "Relative error that each step adds to the sample, logarithmic"
    return _curve_plot(label, fidelity["timesteps"], _drawn(fidelity, values, y), y_ticks, tips)


def _curve_values(fidelity: Json, key: str) -> dict[str, list[float]]:
    """Each model's values, by name; a value that JSON could not hold (null) is not a number."""
    return {
        name: [math.nan if value is None else float(value) for value in fidelity["curves"][name][key]]
        for name in curve_names(fidelity)
    }


def _drawn(fidelity: Json, values: Mapping[str, Sequence[float]], y: Scale) -> list[Curve]:
    x = timestep_scale(fidelity["timesteps"])
    curves = []
    for name, series in values.items():
        pairs = sorted(zip(fidelity["timesteps"], series, strict=True))
        points = [(x(t), y(value)) for t, value in pairs if math.isfinite(value) and math.isfinite(y(value))]
        style = name if name in ("simulation", "exact_weights") else "engine"
        curves.append(Curve(engine_name(name), style, svg_path(points), points))
    return curves


def _curve_tips(fidelity: Json, values: Mapping[str, Sequence[float]], unit: Callable[[float], str]) -> dict[int, str]:
    return {
        timestep: "\n".join(
            [f"t = {timestep:g}", *(f"{engine_name(name)}: {unit(series[index])}" for name, series in values.items())]
        )
        for index, timestep in enumerate(fidelity["timesteps"])
    }


def _curve_plot(
    label: str, timesteps: Sequence[float], curves: list[Curve], y_ticks: list[Tick], tips: Mapping[Any, str]
) -> Plot:
    x = timestep_scale(timesteps)
    order = sorted(tips)
    strips = columns([x(timestep) for timestep in order], [tips[timestep] for timestep in order])
    return Plot(label, timestep_ticks(timesteps), y_ticks, strips, curves)


def parity_plot(parity: Json) -> Plot:
    """SQNR of the engine minus the simulation's per time-step, with its bound as a band around zero."""
    results = sorted(parity["global"], key=lambda result: int(result["timestep"]))
    timesteps = [int(result["timestep"]) for result in results]
    differences = [result["engine_db"] - result["simulation_db"] for result in results]
    bounds = [float(result["bound_db"]) for result in results]
    ticks = linear_ticks([*differences, *bounds, *(-bound for bound in bounds)], include=[0.0])
    x, y = timestep_scale(timesteps), vertical_scale(ticks[0], ticks[-1])
    upper = [(x(t), y(bound)) for t, bound in zip(timesteps, bounds, strict=True)]
    lower = [(x(t), y(-bound)) for t, bound in zip(timesteps, bounds, strict=True)]
    points = [(x(t), y(difference)) for t, difference in zip(timesteps, differences, strict=True)]
    failed = [point for point, result in zip(points, results, strict=True) if not result["ok"]]
    return Plot(
        label="Engine minus simulation, in dB of SQNR per time-step, with the bound as a band",
        x_ticks=timestep_ticks(timesteps),
        y_ticks=[Tick(y(value), signed(value, "g")) for value in ticks],
        columns=columns([point[0] for point in points], [_parity_tip(result) for result in results]),
        curves=[Curve("engine − simulation", "engine", svg_path(points), points, failed)],
        band=svg_path([*upper, *reversed(lower)]) + "Z",
    )


def _parity_tip(result: Json) -> str:
    engine, simulation = decibel(result["engine_db"]), decibel(result["simulation_db"])
    return (
        f"t = {result['timestep']}\nengine {engine} dB\nsimulation {simulation} dB\nbound ±{result['bound_db']:.2f} dB"
    )


def histogram(timesteps: Sequence[float]) -> Plot:
    """How many calibration pairs stand at each time-step; neighbours share a bar above `HISTOGRAM_BARS` bars."""
    end, unique = timestep_end(timesteps), sorted(set(timesteps))
    gaps = [after - before for before, after in pairwise(unique)]
    bin_width = max(min(gaps, default=end / 20), end / HISTOGRAM_BARS)
    counts = sorted(Counter(int(timestep // bin_width) for timestep in timesteps).items())
    ticks = linear_ticks([number for _, number in counts], include=[0.0], integer=True)
    y, width = vertical_scale(0, ticks[-1]), 100 * bin_width / end
    bars, strips = [], []
    for index, number in counts:
        left, first = round(index * width, 2), math.ceil(index * bin_width)
        bars.append((round(left + 0.08 * width, 2), round(0.84 * width, 2), y(number), round(HEIGHT_PX - y(number), 1)))
        tip = f"t = {first} to {math.ceil((index + 1) * bin_width) - 1}\n{number} pair{'' if number == 1 else 's'}"
        strips.append(Column(left, round(width, 2), left + width / 2, tip))
    y_ticks = [Tick(y(value), f"{value:g}") for value in ticks]
    return Plot("Calibration pairs per time-step", timestep_ticks(timesteps), y_ticks, strips, bars=bars)
