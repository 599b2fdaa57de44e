"""Scales, ticks and paths: x in percent and y in pixels, so that inline SVG stretches while its text keeps its size."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from matplotlib.ticker import MaxNLocator

__all__ = [
    "HEIGHT_PX",
    "Column",
    "Point",
    "Scale",
    "Tick",
    "columns",
    "linear_ticks",
    "log_ticks",
    "svg_path",
    "timestep_end",
    "timestep_scale",
    "timestep_ticks",
    "vertical_scale",
]

Point = tuple[float, float]
Scale = Callable[[float], float]
HEIGHT_PX = 220
_STEPS = [1, 2, 2.5, 5, 10]


@dataclass(frozen=True)
class Tick:
    """A grid line: `at` is in percent on x, in pixels on y."""

    at: float
    label: str


@dataclass(frozen=True)
class Column:
    """A vertical strip, in percent, around the mark at `at`; it shows `tip` under the pointer."""

    x: float
    width: float
    at: float
    tip: str


def columns(positions: Sequence[float], tips: Sequence[str]) -> list[Column]:
    """Strips that meet halfway between neighbouring positions (in percent, ascending)."""
    edges = [0.0, *((left + right) / 2 for left, right in pairwise(positions)), 100.0]
    return [
        Column(round(left, 2), round(right - left, 2), at, tip)
        for left, right, at, tip in zip(edges, edges[1:], positions, tips, strict=False)
    ]


def svg_path(points: Sequence[Point]) -> str:
    """A polyline in a box 1000 wide, which the template stretches to the plot's width."""
    return "".join(f"{'L' if index else 'M'}{10 * x:.1f} {y:.1f}" for index, (x, y) in enumerate(points))


def vertical_scale(low: float, high: float) -> Scale:
    """Values to pixels from the top."""
    return lambda value: round(HEIGHT_PX * (high - value) / (high - low), 1)


def timestep_end(timesteps: Sequence[float]) -> int:
    """The next multiple of 100 above every t seen: the training range is not in the run's files."""
    return 100 * (int(max(timesteps)) // 100 + 1)


def timestep_scale(timesteps: Sequence[float]) -> Scale:
    """Time-steps to percent of the plot's width, from t = 0."""
    end = timestep_end(timesteps)
    return lambda timestep: round(100 * timestep / end, 2)


def timestep_ticks(timesteps: Sequence[float]) -> list[Tick]:
    """Round time-steps from 0 to the end of the axis."""
    end = timestep_end(timesteps)
    values = MaxNLocator(nbins=5, integer=True, steps=_STEPS).tick_values(0, end)
    return [Tick(round(100 * value / end, 2), f"{value:g}") for value in values if value <= end]


def linear_ticks(values: Sequence[float], include: Sequence[float] = (), integer: bool = False) -> list[float]:
    """Round values around all finite `values` and `include`; the first and the last are the ends of the axis."""
    finite = [*(value for value in values if math.isfinite(value)), *include] or [0.0]
    low, high = min(finite), max(finite)
    if high - low < 1e-9:
        low, high = low - (0 if integer else 1), high + 1
    locator = MaxNLocator(nbins=5, steps=_STEPS, integer=integer)
    return [float(value) for value in locator.tick_values(low, high)]


def log_ticks(values: Sequence[float]) -> list[float]:
    """A 1-2-5 ladder around the positive values; whole decades once the ladder has more than seven rungs."""
    positive = [value for value in values if math.isfinite(value) and value > 0] or [1e-3, 1e-1]
    low, high = min(positive), max(positive)
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 2)
    ladder = [rung * 10.0**exponent for exponent in exponents for rung in (1, 2, 5)]
    fine = _around(ladder, low, high)
    return fine if len(fine) <= 7 else _around(ladder[::3], low, high)


def _around(ladder: Sequence[float], low: float, high: float) -> list[float]:
    below = max(value for value in ladder if value < low)
    above = min(value for value in ladder if value > high)
    return [value for value in ladder if below <= value <= above]
