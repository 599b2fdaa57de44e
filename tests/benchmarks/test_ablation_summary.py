"""Means and spreads over seeds, changes taken seed by seed, and the tables that show them."""

from dataclasses import replace

import pytest

from ptq_export.benchmarks.ablation.score import Score
from ptq_export.benchmarks.ablation.settings import FACTORS, MIDDLE, Setting
from ptq_export.benchmarks.ablation.summary import Outcome, summarise, tables

L1 = Setting(metric="l1")


def outcome(setting: Setting, seed: int, sqnr_db: float, digit_fid: float | None = None) -> Outcome:
    return Outcome(setting, seed, Score(sqnr_db, sqnr_db - 20, sqnr_db + 4), digit_fid, 20.0, 8.0)


TWO_SEEDS = [outcome(MIDDLE, 0, 40, 51), outcome(MIDDLE, 1, 44), outcome(L1, 0, 39), outcome(L1, 1, 43.5)]


def test_mean_and_standard_deviation_are_over_the_seeds() -> None:
    entry = summarise(TWO_SEEDS)["factors"]["range metric"]["l2.4"]
    assert entry["sqnr_median_db"] == {"mean": 42, "std": pytest.approx(8**0.5, abs=1e-4)}
    assert entry["sqnr_worst_db"]["mean"] == 22 and entry["psnr_db"]["mean"] == 46


def test_the_change_against_the_middle_is_paired_by_seed() -> None:
    entries = summarise(TWO_SEEDS)["factors"]["range metric"]
    assert entries["l1"]["gain"]["sqnr_median_db"] == {"mean": -0.75, "std": pytest.approx(0.3536, abs=1e-4)}
    assert entries["l2.4"]["gain"] == {}


def test_a_seed_that_the_middle_lacks_makes_no_change() -> None:
    entries = summarise([*TWO_SEEDS[:1], *TWO_SEEDS[2:]])["factors"]["range metric"]
    assert entries["l1"]["gain"]["sqnr_median_db"] == {"mean": -1, "std": None}
    assert entries["l1"]["sqnr_median_db"]["mean"] == 41.25


def test_the_middle_stands_in_every_factor_and_what_was_not_measured_in_none() -> None:
    factors = summarise(TWO_SEEDS)["factors"]
    assert list(factors) == list(FACTORS)
    assert list(factors["range metric"]) == ["l1", "l2.4"]
    assert all(len(entries) == 1 for name, entries in factors.items() if name != "range metric")


def test_an_outcome_survives_json() -> None:
    assert [Outcome.from_json(each.to_json()) for each in TWO_SEEDS] == TWO_SEEDS


def test_tables_show_means_spreads_and_signed_changes() -> None:
    found = tables({**summarise(TWO_SEEDS), "fp32_digit_fid": 50.5})
    assert found["range metric"][1:] == [
        ["l1", "41.25 ± 3.18", "21.25 ± 3.18", "45.25 ± 3.18", "-0.75 ± 0.35", "-0.75 ± 0.35"],
        ["l2.4 (middle)", "42.00 ± 2.83", "22.00 ± 2.83", "46.00 ± 2.83", "–", "–"],
    ]
    assert found["digit-FID"][1:] == [["full precision", "50.50"], ["middle", "51.00"]]


def test_one_seed_has_no_spread_and_no_digits_no_fid() -> None:
    single = [replace(each, digit_fid=None) for each in TWO_SEEDS if each.seed == 0]
    found = tables({**summarise(single), "fp32_digit_fid": None})
    assert found["range metric"][1] == ["l1", "39.00", "19.00", "43.00", "-1.00", "-1.00"]
    assert "digit-FID" not in found
