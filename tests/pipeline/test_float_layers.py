"""Which layers cost most, and how few must stay float: on the tiny run, by the command and in mid-run."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from watcher import Watcher

from ptq_export.artifacts import sha256_file
from ptq_export.errors import InputError
from ptq_export.pipeline import run, sensitivity, verify
from ptq_export.pipeline.commands.reopened import reopen, simulate
from ptq_export.pipeline.float_layers import rank_layers
from ptq_export.pipeline.proofs import below_floor, failures


def layers(folder: Path) -> dict[str, dict[str, str]]:
    rows = json.loads((folder / "layers.json").read_text())["layers"]
    return {row["name"]: row for row in rows}


def test_layers_of_a_run_are_ranked_with_their_times(copied: Path, watcher: Watcher) -> None:
    value = sensitivity(copied, watcher, tiny.SPEC)
    names = [row["name"] for row in value["layers"]]
    assert sorted(names) == sorted(name for name, row in layers(copied).items() if row["precision"] == "int8")
    shares = [row["share"] for row in value["layers"]]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1, abs=1e-3)
    assert min(row["sqnr_db"] for row in value["layers"]) > value["all_db"], "one alone costs less than all together"
    assert all(row["ms"] > 0 and row["float_ms"] > 0 for row in layers(copied).values())
    artefacts = json.loads((copied / "manifest.json").read_text())["artefacts"]
    assert artefacts["sensitivity.png"]["sha256"] == sha256_file(copied / "sensitivity.png")
    assert "What each costs" in (copied / "report.html").read_text()


def test_too_little_fidelity_fails_with_the_layers_that_make_the_noise(copied: Path, watcher: Watcher) -> None:
    job = reopen(copied, watcher, tiny.SPEC)
    assert not below_floor(job) and failures(job) == []
    job = replace(job, options=replace(job.options, min_sqnr=60.0))
    loudest = rank_layers(job, simulate(job))["layers"][0]
    [failure] = failures(job)
    assert below_floor(job) and "below 60 dB (--min-sqnr)" in failure
    assert f"most of the noise is made by {loudest['name']} ({loudest['share']:.0%})" in failure


@pytest.mark.slow
def test_as_few_as_reach_the_wanted_sqnr_stay_float(finished: Path, tmp_path: Path, watcher: Watcher) -> None:
    verdict = json.loads((finished / "manifest.json").read_text())["verdict"]
    wanted_db = verdict["median_sqnr_db"] + 4
    folder = run(replace(tiny.options(tmp_path / "auto"), keep_float=f"auto:{wanted_db}"))
    kept = json.loads((folder / "kept.json").read_text())["layers"]
    rows = layers(folder)
    assert 0 < len(kept) < verdict["int8_layers"]
    assert all((rows[name]["precision"], rows[name]["intended"]) == ("float", "float") for name in kept)
    assert all(rows[name]["reason"] == f"kept float to reach {wanted_db:g} dB" for name in kept)
    assert json.loads((folder / "manifest.json").read_text())["verdict"]["int8_layers"] == verdict["int8_layers"] - len(
        kept
    )
    assert verify(folder, watcher, tiny.SPEC)["layers_with_equal_codes"] == verdict["int8_layers"] - len(kept)


def test_layers_that_are_named_stay_float(tmp_path: Path) -> None:
    options = replace(tiny.options(tmp_path / "named", "families:clean"), keep_float="*.conv2", rounding="nearest")
    rows = layers(run(options))
    kept = {name for name, row in rows.items() if "asked for by --keep-float" in row["reason"]}
    assert kept == {"block.conv2"} and rows["block.conv2"]["precision"] == "float"
    assert rows["block.conv1"]["precision"] == "int8"


@pytest.mark.parametrize(
    ("keep_float", "message"),
    [
        ("auto:high", "'high' is no number of dB"),
        ("*.attention.*", r"no int8 layer is called '\*.attention.\*'\nfor instance "),
    ],
)
def test_what_cannot_be_kept_is_refused_and_leaves_nothing(tmp_path: Path, keep_float: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        run(replace(tiny.options(tmp_path / "run"), keep_float=keep_float))
    assert list(tmp_path.iterdir()) == []
