"""The charts of a run: latency per denoising step, and which layers make the noise."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ptq_export.artifacts import atomic_path

__all__ = ["plot_latency", "plot_sensitivity"]

INT8_COLOUR, FLOAT_COLOUR, INK, QUIET, GRID, WARNING = "#2f6f9f", "#c3ccd5", "#1f2933", "#5d6b7e", "#e6eaef", "#b4542b"
LOUDEST = 25
DOTS_PER_INCH = 200  # twice a screen's 100: sharp when the page shows it at half size


def plot_latency(latency_json: Mapping[str, Any], path: Path) -> None:
    """Draw the steps of a `latency.json` to `path` (PNG), whole or not at all."""
    steps, environment = latency_json["steps"], latency_json["environment"]
    bars = sum(len(step["candidates"]) for step in steps)
    figure = Figure(figsize=(7.6, 0.4 + 0.7 * len(steps) + 0.42 * bars), layout="constrained")
    panels = figure.subplots(len(steps), squeeze=False)[:, 0]
    for axis, step in zip(panels, steps, strict=True):
        _draw_bars(axis, step)
        _style(axis, step)
    machine = environment.get("gpu") or f"{environment['cpu']}, {environment['threads']} threads"
    panels[-1].set_xlabel(
        f"ms per denoising step: median, whisker to the 90th percentile  ·  {machine}", color=QUIET, fontsize=8.5
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, facecolor="white")


def plot_sensitivity(sensitivity_json: Mapping[str, Any], path: Path) -> None:
    """Draw the loudest layers of a `sensitivity.json` to `path` (PNG): share of the noise, SQNR written beside it."""
    layers = sensitivity_json["layers"][:LOUDEST]
    figure = Figure(figsize=(7.6, 1.0 + 0.27 * len(layers)), layout="constrained")
    axis = figure.subplots()
    shares = [100 * layer["share"] for layer in layers]
    axis.barh(range(len(layers)), shares, height=0.66, color=INT8_COLOUR)
    for row, (layer, share) in enumerate(zip(layers, shares, strict=True)):
        text = f"{layer['sqnr_db']:.1f} dB"
        place: dict[str, Any] = {"xytext": (6, 0), "textcoords": "offset points", "va": "center"}
        axis.annotate(text, (share, row), fontsize=8.5, color=INK, **place)
    axis.set_yticks(range(len(layers)), [layer["name"] for layer in layers], fontsize=8.5, color=INK)
    axis.set_ylim(len(layers) - 0.4, -0.6)
    axis.set_xlim(0, 1.2 * max(shares, default=1.0))
    of = f"the {len(layers)} loudest of {len(sensitivity_json['layers'])} int8 layers"
    axis.set_title(
        f"Noise of each layer quantised alone, {of}", loc="left", fontsize=10.5, fontweight="bold", color=INK
    )
    together = (
        f"% of the noise of all layers  ·  beside the bar: SQNR alone  ·  all: {sensitivity_json['all_db']:.1f} dB"
    )
    axis.set_xlabel(together, color=QUIET, fontsize=8.5)
    _quieten(axis)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, facecolor="white")


def _draw_bars(axis: Axes, step: Mapping[str, Any]) -> None:
    speedup_colour = INT8_COLOUR if step["valid"] else WARNING
    for row, (name, figures) in enumerate(step["candidates"].items()):
        median_ms, p90_ms = figures["median_ms"], figures["p90_ms"]
        axis.barh(row, median_ms, height=0.62, color=FLOAT_COLOUR if row else INT8_COLOUR)
        axis.plot([median_ms, p90_ms], [row, row], color=INK, linewidth=1, marker="|", markersize=5)
        axis.annotate(
            f"{median_ms:.3g} ms" if median_ms < 1000 else f"{median_ms:.0f} ms",
            (p90_ms, row),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=9.5,
            color=INK,
        )
        if name in step["speedup"]:
            axis.annotate(
                f"int8 is {step['speedup'][name]:.2f}x as fast",
                (1, row),
                xycoords=axis.get_yaxis_transform(),
                ha="right",
                va="center",
                fontsize=9.5,
                fontweight="bold",
                color=speedup_colour,
            )


def _style(axis: Axes, step: Mapping[str, Any]) -> None:
    candidates = step["candidates"]
    longest_ms = max(figures["p90_ms"] for figures in candidates.values())
    axis.set_title(f"batch {step['batch']}", loc="left", fontsize=10.5, fontweight="bold", color=INK)
    if not step["valid"]:
        axis.set_title("INVALID: too noisy to claim a speed-up", loc="right", fontsize=9.5, color=WARNING)
    axis.set_yticks(range(len(candidates)), list(candidates), fontsize=9.5, color=INK)
    axis.set_ylim(len(candidates) - 0.4, -0.6)
    # Ticks and grid end with the bars; the room on the right is for the words.
    ticks = [tick for tick in MaxNLocator(6).tick_values(0, longest_ms) if 0 <= tick <= 1.05 * longest_ms]
    axis.set_xticks(ticks)
    axis.set_xlim(0, 1.55 * longest_ms)
    _quieten(axis)


def _quieten(axis: Axes) -> None:
    axis.tick_params(axis="x", labelsize=8.5, colors=QUIET, length=0)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[:].set_visible(False)
