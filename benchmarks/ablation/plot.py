"""The picture of the ablation: a panel per factor, median SQNR as points, error bars over the seeds."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ptq_export.artifacts import atomic_path

__all__ = ["plot_ablation"]

COLUMNS = (
    ("calibration source", "range metric"),
    ("time-steps", "NDTC mean, std"),
    ("calibration pairs", "rounding", "skip scales"),
)
MIDDLE_COLOUR, COLOUR, INK, QUIET, GRID = "#2f6f9f", "#8b98a8", "#1f2933", "#5d6b7e", "#e6eaef"
DOTS_PER_INCH = 200
LEAST_SPAN_DB = 1.0  # noise should not look like a difference
HEADING_ROWS = 1.9  # what a panel's title and axis take, in rows of points


def plot_ablation(ablation_json: Mapping[str, Any], path: Path) -> None:
    """Draw the factors of an `ablation.json` to `path` (PNG), whole or not at all."""
    factors = ablation_json["factors"]
    heights = [[len(factors[name]) + HEADING_ROWS for name in column] for column in COLUMNS]
    figure = Figure(figsize=(10.4, 0.6 + 0.27 * max(map(sum, heights))), layout="constrained")
    for part, names, ratios in zip(figure.subfigures(1, len(COLUMNS), squeeze=False)[0], COLUMNS, heights, strict=True):
        # Columns of fewer rows leave their rest empty: a row is as high everywhere.
        spare = max(map(sum, heights)) - sum(ratios)
        panels = part.subplots(len(names) + 1, gridspec_kw={"height_ratios": [*ratios, spare + 1e-3]})
        panels[-1].set_axis_off()
        for axis, name in zip(panels, names, strict=False):
            _draw(axis, factors[name])
            _style(axis, name, list(factors[name]))
    seeds = ablation_json["seeds"]
    spread = f", bars: standard deviation over {seeds} seeds" if seeds > 1 else ""
    figure.supxlabel(
        f"median SQNR of eps on held-out noise, dB: more is better{spread}  ·  blue: the middle of the ablation",
        color=QUIET,
        fontsize=9,
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=DOTS_PER_INCH, facecolor="white")


def _draw(axis: Axes, entries: Mapping[str, Any]) -> None:
    for row, entry in enumerate(entries.values()):
        mean, std = entry["sqnr_median_db"]["mean"], entry["sqnr_median_db"]["std"] or 0
        colour = COLOUR if entry["gain"] else MIDDLE_COLOUR
        if not entry["gain"]:
            axis.axvline(mean, color=colour, linewidth=0.9, alpha=0.5, zorder=1)
        axis.errorbar(mean, row, xerr=std, fmt="o", color=colour, ecolor=INK, elinewidth=1, capsize=2.5, markersize=6)
        axis.annotate(
            f"{mean:.2f}",
            (1.02, row),
            xycoords=axis.get_yaxis_transform(),
            va="center",
            fontsize=8.5,
            color=INK if entry["gain"] else MIDDLE_COLOUR,
        )


def _style(axis: Axes, title: str, labels: list[str]) -> None:
    axis.set_title(title, loc="left", fontsize=10, fontweight="bold", color=INK)
    axis.set_yticks(range(len(labels)), labels, fontsize=9, color=INK)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.margins(x=0.12)
    low, high = axis.get_xlim()
    widen = max(0.0, LEAST_SPAN_DB - (high - low)) / 2
    axis.set_xlim(low - widen, high + widen)
    axis.xaxis.set_major_locator(MaxNLocator(4))
    axis.tick_params(axis="x", labelsize=8, colors=QUIET, length=0)
    axis.tick_params(axis="y", length=0)
    axis.grid(axis="x", color=GRID, linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[:].set_visible(False)
