"""Figures as people read them: one rounding per unit, so that the page and the terminal never disagree."""

import math

__all__ = [
    "ABSENT",
    "count",
    "decibel",
    "duration",
    "milliseconds",
    "percent",
    "precision_label",
    "ratio",
    "sampler_label",
    "signed",
    "size",
]

ABSENT = "–"
EXACT_DB = 150.0
_PRECISIONS = {"int8": "int8", "fp32": "FP32", "fp16": "FP16", "bf16": "BF16"}
_ENGINES = {"ort": "ORT", "openvino": "OpenVINO", "trt": "TensorRT", "rtx": "RTX", "cuda": "CUDA"}
_SAMPLERS = {"dpm-solver++": "DPM-Solver++", "euler": "Euler", "unipc": "UniPC"}


def decibel(value: float | None) -> str:
    """38.42 -> `38.4`; from 150 dB on, which float32 cannot resolve, `∞`."""
    if value is None or math.isnan(value):
        return ABSENT
    if abs(value) >= EXACT_DB:
        return "∞" if value > 0 else "−∞"
    return f"{value:.1f}".replace("-", "−")


def signed(value: float, form: str) -> str:
    """A difference with its sign; zero has none."""
    return format(value, f"+{form}").replace("-", "−") if value else "0"


def milliseconds(value: float | None) -> str:
    """Three significant digits up to 1000 ms: `0.812`, `3.31`, `74.2`, `1204`."""
    return ABSENT if value is None else _significant(value, 3)


def percent(share: float | None) -> str:
    """A share as a percentage of two significant digits: 0.0123 -> `1.2 %`."""
    return ABSENT if share is None or not math.isfinite(share) else f"{_significant(100 * share, 2)} %"


def _significant(value: float, digits: int) -> str:
    if not value or not math.isfinite(value):
        return f"{value:.0f}"
    magnitude = math.floor(math.log10(abs(value)))
    return f"{value:.{min(max(digits - 1 - magnitude, 0), 6)}f}"


def ratio(value: float | None) -> str:
    """1.934 -> `1.93×`."""
    return ABSENT if value is None else f"{value:.2f}×"


def size(size_bytes: float | None) -> str:
    """Bytes in decimal units, as disks are sold: `9.81 MB`."""
    if size_bytes is None:
        return ABSENT
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{_significant(size_bytes / scale, 3)} {unit}"
    return f"{size_bytes:.0f} B"


def duration(seconds: float | None) -> str:
    """`0.42 s`, `18.3 s`, `2 min 14 s`, `1 h 05 min`."""
    if seconds is None:
        return ABSENT
    if seconds < 59.95:
        return f"{seconds:.{2 if seconds < 9.995 else 1}f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def count(number: int | None) -> str:
    """Thousands apart: `35,746,307`."""
    return ABSENT if number is None else f"{number:,}"


def precision_label(name: str) -> str:
    """A candidate in words: `ort-fp32-unfolded` -> `ORT FP32 unfolded`; names of no target stay as they are."""
    parts = name.split("-")
    if not set(parts) & set(_PRECISIONS):
        return name
    return " ".join((_ENGINES | _PRECISIONS).get(part, part) for part in parts)


def sampler_label(name: str) -> str:
    """`ddim` -> `DDIM`."""
    return _SAMPLERS.get(name, name.upper())
