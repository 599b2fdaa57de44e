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
    """Draw the results (their JSON object, with latencies) to `path` (PNG), whole or not at all."""
    models, speeds = results_json["models"], results_json["speed"]
    threads = sorted({speed["threads"] for speed in speeds})
    figure = Figure(figsize=(7.2 + 3.6 * len(threads), 5.6), layout="constrained")
    grid = figure.add_gridspec(1, 1 + len(threads), width_ratios=[1.7, *[1] * len(threads)])
    _scatter(figure.add_subplot(grid[0]), models, _headline(speeds))
    shown = _lines(models, _headline(speeds))
    for column, count in enumerate(threads, start=1):
        axis = figure.add_subplot(grid[column])
        _throughput(axis, models, [speed for speed in speeds if speed["threads"] == count], shown)
        axis.set_title(f"{count} thread{'s' if count > 1 else ''}", loc="left", fontsize=10, color=INK)
    environment = results_json["environment"]
    machine = f"{environment['cpu']}, {environment['threads']} threads"
    figure.supxlabel(f"blue: ptq-export  ·  orange: ONNX Runtime, green: OpenVINO, purple: torch  ·  {machine}",
                     color=QUIET, fontsize=8.5)  # fmt: skip
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, facecolor="white")


def _headline(speeds: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The setting of the left panel: the smallest batch with the most threads."""
    return min(speeds, key=lambda speed: (speed["batch"], -speed["threads"]))


def _scatter(axis: Axes, models: Models, speed: Mapping[str, Any]) -> None:
    scored = {name: model for name, model in models.items() if model["accuracy"] and name in speed["models"]}
    figure = "psnr_mean_db" if any(model["accuracy"]["psnr_mean_db"] for model in scored.values()) else "sqnr_median_db"
    number = 0
    key = []
    for name, model in sorted(scored.items(), key=lambda item: speed["models"][item[0]]["median_ms"]):
        x, y, colour = speed["models"][name]["median_ms"], model["accuracy"][figure], _colour(model)
        if model["float"]:
            axis.axvline(x, color=colour, linewidth=1, linestyle=":")
            axis.annotate(name, (x, 0.01), xycoords=axis.get_xaxis_transform(), rotation=90, fontsize=7,
                          color=colour, ha="right", va="bottom")  # fmt: skip
            continue
        number += 1
        axis.plot(x, y, "o", color=colour, markersize=9 if model["own"] else 6)
        axis.annotate(str(number), (x, y), xytext=(5, 4), textcoords="offset points", fontsize=8, color=colour)
        key.append(f"{number} {name}")
    axis.set_title("\n".join(key), loc="left", fontsize=7, color=INK)
    label = "same-noise PSNR, dB" if figure == "psnr_mean_db" else "median SQNR of eps, dB"
    axis.set_ylabel(f"{label}: more is better", fontsize=8.5, color=QUIET)
    threads = f"{speed['threads']} thread{'s' if speed['threads'] > 1 else ''}"
    axis.set_xlabel(f"ms per denoising step, batch {speed['batch']}, {threads}", fontsize=8.5, color=QUIET)
    _quieten(axis)


def _throughput(axis: Axes, models: Models, speeds: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> None:
    for name in shown:
        points = [(it["batch"], 1 / it["models"][name]["image_s"]) for it in speeds if name in it["models"]]
        if not points:
            continue
        model = models[name]
        style = "--" if model["float"] else "-"
        width = 2.2 if model["own"] else 1.1
        axis.plot(*zip(*points, strict=True), style, marker="o", markersize=3, color=_colour(model), linewidth=width)
        axis.annotate(name, points[-1], xytext=(4, 0), textcoords="offset points", fontsize=6.5, va="center",
                      color=_colour(model))  # fmt: skip
    batches = [speed["batch"] for speed in speeds]
    axis.set_yscale("log")
    axis.set_xscale("log", base=2)
    axis.set_xticks(batches, [str(batch) for batch in batches])
    axis.set_xlim(min(batches) / 1.2, max(batches) * 6)
    axis.yaxis.set_major_formatter(ScalarFormatter())
    axis.yaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("batch", fontsize=8.5, color=QUIET)
    axis.set_ylabel(f"images per second, {LOOP_STEPS} steps each", fontsize=8.5, color=QUIET)
    _quieten(axis)


def _lines(models: Models, speed: Mapping[str, Any]) -> list[str]:
    """Ours, the float networks, and the fastest of each family's quantised peers: more lines nobody can tell apart."""
    quickest = sorted((name for name in models if name in speed["models"]),
                      key=lambda name: speed["models"][name]["median_ms"])  # fmt: skip
    best: dict[str, str] = {}
    for name in quickest:
        if not models[name]["own"] and not models[name]["float"]:
            best.setdefault(models[name]["runtime"], name)
    return [name for name in quickest if models[name]["own"] or models[name]["float"] or name in best.values()]


def _colour(model: Mapping[str, Any]) -> str:
    return OWN if model["own"] else FAMILIES[model["runtime"].partition("-")[0]]


def _quieten(axis: Axes) -> None:
    axis.tick_params(labelsize=8, colors=QUIET, length=0)
    axis.grid(color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[:].set_visible(False)
