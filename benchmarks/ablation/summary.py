"""What the ablation says: mean and spread over seeds, the change against the middle, and the tables of both.

A seed's settings share their trajectories, so the change is taken seed by seed: its spread is the smaller one.
"""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ptq_export.benchmarks.ablation.score import FID_SAMPLES, Score
from ptq_export.benchmarks.ablation.settings import FACTORS, MIDDLE, Setting

__all__ = ["Outcome", "summarise", "tables"]

FIGURES = {"sqnr_median_db": "median SQNR, dB", "sqnr_worst_db": "worst step, dB", "psnr_db": "PSNR, dB"}
Spread = dict[str, float | None]


@dataclass(frozen=True)
class Outcome:
    """The score of one setting calibrated with one seed, and the seconds that this took."""

    setting: Setting
    seed: int
    score: Score
    digit_fid: float | None
    calibration_s: float
    evaluation_s: float

    def to_json(self) -> dict[str, Any]:
        """An entry of `outcomes` in `ablation.json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Outcome":
        """The outcome of such an entry."""
        return cls(**{**value, "setting": Setting(**value["setting"]), "score": Score(**value["score"])})


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """`factors` and `digit_fid` in `ablation.json`; settings without an outcome are left out."""
    by_setting: dict[Setting, dict[int, Outcome]] = {}
    for outcome in outcomes:
        by_setting.setdefault(outcome.setting, {})[outcome.seed] = outcome
    middle = by_setting.get(MIDDLE, {})
    factors = {
        factor: {
            label: _entry(by_setting[setting], middle) for label, setting in entries.items() if setting in by_setting
        }
        for factor, entries in FACTORS.items()
    }
    fids = {_name(outcome.setting): outcome.digit_fid for outcome in outcomes if outcome.digit_fid is not None}
    return {"factors": factors, "digit_fid": fids}


def _entry(found: Mapping[int, Outcome], middle: Mapping[int, Outcome]) -> dict[str, Any]:
    scores = {seed: asdict(outcome.score) for seed, outcome in found.items()}
    others = {seed: asdict(outcome.score) for seed, outcome in middle.items()}
    gains = {
        figure: _spread([scores[seed][figure] - others[seed][figure] for seed in scores if seed in others])
        for figure in FIGURES
        if found is not middle
    }
    return {
        "setting": asdict(next(iter(found.values())).setting),
        **{figure: _spread([score[figure] for score in scores.values()]) for figure in FIGURES},
        "gain": gains,
    }


def _spread(values: Sequence[float]) -> Spread:
    """Mean and standard deviation; one value has no spread."""
    if not values:
        return {"mean": None, "std": None}
    std = round(statistics.stdev(values), 4) if len(values) > 1 else None
    return {"mean": round(statistics.fmean(values), 4), "std": std}


def _name(setting: Setting) -> str:
    changed = {name: value for name, value in asdict(setting).items() if value != getattr(MIDDLE, name)}
    return ", ".join(f"{name} {value}" for name, value in changed.items()) or "middle"


def tables(ablation_json: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Rows by title, headers first; one table per factor, and the digit-FIDs where they were measured."""
    found = {factor: _factor_rows(entries) for factor, entries in ablation_json["factors"].items()}
    if ablation_json["digit_fid"]:
        rows = [[name, f"{fid:.2f}"] for name, fid in ablation_json["digit_fid"].items()]
        exact = ["full precision", f"{ablation_json['fp32_digit_fid']:.2f}"]
        found["digit-FID"] = [["setting", f"digit-FID, N = {FID_SAMPLES}"], exact, *rows]
    return found


def _factor_rows(entries: Mapping[str, Any]) -> list[list[str]]:
    rows = [
        [
            f"{label} (middle)" if not entry["gain"] else label,
            *(_text(entry[figure]) for figure in FIGURES),
            *(_text(entry["gain"].get(figure, {}), "+") for figure in ("sqnr_median_db", "psnr_db")),
        ]
        for label, entry in entries.items()
    ]
    return [["setting", *FIGURES.values(), "median SQNR, change", "PSNR, change"], *rows]


def _text(spread: Mapping[str, float | None], sign: str = "") -> str:
    mean, std = spread.get("mean"), spread.get("std")
    if mean is None:
        return "–"
    return f"{mean:{sign}.2f}" if std is None else f"{mean:{sign}.2f} ± {std:.2f}"
