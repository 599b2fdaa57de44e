"""The picture of a comparison: fidelity against latency, and throughput over batch sizes and threads."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, NullLocator, ScalarFormatter

from ptq_export.artifacts import atomic_path
from ptq_export.benchmarks.peers.speed import LOOP_STEPS

__all__ = ["plot_peers"]

OWN, INK, QUIET, GRID = "#2f6f9f", "#1f2933", "#5d6b7e", "#e6eaef"
FAMILIES = {"ort": "#b4542b", "openvino": "#4b8f5d", "torch": "#8a63a8"}
DOTS_PER_INCH = 200
Models = Mapping[str, Mapping[str, Any]]


def plot_peers(results_json: Mapping[str, Any], path: Path) -> None:
    """Draw the results (their JSON object, with fidelity and latencies) to `path` (PNG), whole or not at all.

    Models have numbers, by their latency at the smallest batch with the most threads.
    """
    models, speeds = results_json["models"], results_json["speed"]
    headline = min(speeds, key=lambda speed: (speed["batch"], -speed["threads"]))
    ranked = sorted(headline["models"], key=lambda name: float(headline["models"][name]["median_ms"]))
    threads = sorted({speed["threads"] for speed in speeds})
    figure = Figure(figsize=(7.4 + 2.6 * len(threads), max(4.6, 0.6 + 0.21 * len(ranked))), layout="constrained")
    grid = figure.add_gridspec(1, 2 + len(threads), width_ratios=[2.2, 1.3, *[1] * len(threads)])
    _scatter(figure.add_subplot(grid[0]), models, headline, ranked)
    _key(figure.add_subplot(grid[1]), models, ranked)
    for column, count in enumerate(threads, start=2):
        axis = figure.add_subplot(grid[column])
        _throughput(axis, models, [speed for speed in speeds if speed["threads"] == count], ranked)
        axis.set_title(_threads(count), loc="left", fontsize=9.5, color=INK)
    environment = results_json["environment"]
    families = "blue: ptq-export  ·  orange: ONNX Runtime, green: OpenVINO, purple: torch  ·  dotted: float"
    figure.supxlabel(f"{families}  ·  {environment['cpu']}", color=QUIET, fontsize=8.5)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, facecolor="white")


def _scatter(axis: Axes, models: Models, speed: Mapping[str, Any], ranked: Sequence[str]) -> None:
    scored = [name for name in ranked if models[name]["accuracy"]]
    is_trained = any(models[name]["accuracy"]["psnr_mean_db"] is not None for name in scored)
    figure = "psnr_mean_db" if is_trained else "sqnr_median_db"
    for name in scored:
        x, y, colour = speed["models"][name]["median_ms"], models[name]["accuracy"][figure], _colour(models[name])
        number = str(ranked.index(name) + 1)
        if models[name]["float"]:
            height = 0.02 + 0.05 * (ranked.index(name) % 3)
            axis.axvline(x, color=colour, linewidth=1, linestyle=":")
            _write(axis, number, (x, height), colour, axis.get_xaxis_transform())
        else:
            axis.plot(x, y, "o", color=colour, markersize=9 if models[name]["own"] else 6)
            _write(axis, number, (x, y), colour, axis.transData)
    label = "same-noise PSNR" if is_trained else "median SQNR of eps"
    axis.set_title(f"{label}, dB: more is better", loc="left", fontsize=9.5, color=INK)
    axis.set_xlabel(
        f"ms per denoising step, batch {speed['batch']}, {_threads(speed['threads'])}", fontsize=8.5, color=QUIET
    )
    axis.set_xscale("log")
    for formatter in (axis.xaxis.set_major_formatter, axis.xaxis.set_minor_formatter):
        formatter(ScalarFormatter())
    _quieten(axis)


def _key(axis: Axes, models: Models, ranked: Sequence[str]) -> None:
    for row, name in enumerate(ranked):
        weight = "bold" if models[name]["own"] else "normal"
        text = f"{row + 1}  {name}"
        axis.text(0, -row, text, fontsize=7.5, color=_colour(models[name]), va="center", fontweight=weight)
    axis.set_ylim(-max(len(ranked), 20), 0.6)
    axis.set_axis_off()


def _throughput(axis: Axes, models: Models, speeds: Sequence[Mapping[str, Any]], ranked: Sequence[str]) -> None:
    for name in _lines(models, ranked):
        points = [(it["batch"], 1 / it["models"][name]["image_s"]) for it in speeds if name in it["models"]]
        if not points:
            continue
        style, width = ":" if models[name]["float"] else "-", 2.2 if models[name]["own"] else 1.1
        colour = _colour(models[name])
        axis.plot(*zip(*points, strict=True), style, marker="o", markersize=3, color=colour, linewidth=width)
        _write(axis, str(ranked.index(name) + 1), points[-1], colour, axis.transData)
    batches = [speed["batch"] for speed in speeds]
    axis.set_yscale("log")
    axis.set_xscale("log", base=2)
    axis.set_xticks(batches, [str(batch) for batch in batches])
    axis.set_xlim(min(batches) / 1.3, max(batches) * 1.5)
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel(f"batch; images/s, {LOOP_STEPS} steps each", fontsize=8.5, color=QUIET)
    _quieten(axis)


def _lines(models: Models, ranked: Sequence[str]) -> list[str]:
    """Ours, the float networks, and the fastest peer of each runtime: more lines nobody can tell apart."""
    best: dict[str, str] = {}
    for name in ranked:
        if not models[name]["own"] and not models[name]["float"]:
            best.setdefault(models[name]["runtime"], name)
    return [name for name in ranked if models[name]["own"] or models[name]["float"] or name in best.values()]


def _write(axis: Axes, text: str, at: tuple[float, float], colour: str, where: Any) -> None:
    place: dict[str, Any] = {"xytext": (5, 3), "textcoords": "offset points"}
    axis.annotate(text, at, xycoords=where, fontsize=8, color=colour, **place)


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"


def _colour(model: Mapping[str, Any]) -> str:
    return OWN if model["own"] else FAMILIES[model["runtime"].partition("-")[0]]


def _quieten(axis: Axes) -> None:
    axis.tick_params(which="both", labelsize=8, colors=QUIET, length=0)
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[:].set_visible(False)
