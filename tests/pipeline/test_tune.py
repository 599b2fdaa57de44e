"""`--tune` in the main job: measured on the engine, kept in the run and in the cache, and what the engine then is."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
from watcher import Watcher

from ptq_export.artifacts import read_json
from ptq_export.benchmarks.timing.clock import Protocol
from ptq_export.engines import availability
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.options import Options
from ptq_export.pipeline import run, verify
from ptq_export.pipeline.job import Job
from ptq_export.pipeline.run import prepare
from ptq_export.pipeline.stages import calibration_pairs
from ptq_export.pipeline.tuning.cache import cache_file, remember
from ptq_export.pipeline.tuning.race import Candidate, Choice
from ptq_export.pipeline.tuning.tune import choose, tuning_key
from ptq_export.pipeline.tuning.workbench import JobBench, renamed

ATTENTION = "unet.mid_block.attentions.0"
SHORTCUT = "unet.up_blocks.0.resnets.0.conv_shortcut"


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The user's cache, shared by the tests of this file."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "ptq-export" / "tune"


def options(out: Path, **changed: Any) -> Options:
    return replace(tiny.options(out), rounding="nearest", tune=5.0, keep_float=f"{ATTENTION}.to_out.0", **changed)


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> Path:
    """A run that was measured; do not change it."""
    return run(options(tmp_path_factory.mktemp("runs") / "tuned"))


def layers(folder: Path) -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in read_json(folder / "layers.json")["layers"]}


def tuned_layers(folder: Path) -> dict[str, str]:
    return {name: row["reason"] for name, row in layers(folder).items() if "int8 is slower here" in row["reason"]}


def test_every_candidate_is_in_tuning_json_tried_or_not_reached(tuned: Path) -> None:
    value = read_json(tuned / "tuning.json")
    tried, left = value["trials"], value["not_reached"]
    assert tried and len({row["what"] for row in tried + left}) == len(tried) + len(left)
    for row in tried:
        assert row["before_ms"] > 0 and row["after_ms"] > 0 and row["why"]
        assert row["low"] <= row["speedup"] <= row["high"]
        assert (row["sqnr_db"] is not None) or not row["kept"]
    assert not any(f"{ATTENTION}.to_out.0" in row["layers"] for row in tried + left), "float already"
    assert value["seconds"] >= 5 or not left
    assert (value["budget_s"], value["reused"], value["batch"]) == (5.0, False, 1)
    assert value["sqnr_db"]["tuned"] >= value["sqnr_db"]["untuned"] - 0.1


def test_the_engine_is_what_was_chosen_and_every_proof_holds(tuned: Path, watcher: Watcher) -> None:
    chosen = read_json(tuned / "tuning.json")["chosen"]
    manifest = read_json(tuned / "manifest.json")
    assert manifest["verdict"]["ok"] and "tuning.json" in manifest["artefacts"]
    assert tuned_layers(tuned) == chosen["float_layers"]
    assert any(name.endswith("conv_shortcut.first") for name in layers(tuned)) == chosen["split_shortcut"]
    assert "asked for by --keep-float" in layers(tuned)[f"{ATTENTION}.to_out.0"]["reason"]
    assert verify(tuned, watcher, tiny.SPEC)["layers_with_equal_codes"] == manifest["verdict"]["int8_layers"]
    assert "What is faster in float" in (tuned / "report.html").read_text()


def test_finished_tuning_is_not_repeated(tuned: Path, watcher: Watcher) -> None:
    job = prepare(options(tuned).resolved(), watcher)
    job = replace(job, plan=choose(job, calibration_pairs(job)))
    assert watcher.stages == []
    kept = {site.name: site.keep_float for site in job.sites if "int8 is slower here" in site.keep_float}
    assert kept == read_json(tuned / "tuning.json")["chosen"]["float_layers"]


def chosen_before(job: Job, chosen: dict[str, Any], **more: Any) -> None:
    """Put a tuning with this result into the cache, as an earlier run would have."""
    total = {"before_ms": 2.0, "after_ms": 1.0, "speedup": 2.0, "low": 1.9, "high": 2.1}
    sqnr_db = {"untuned": 30.0, "tuned": 30.0, "loss_allowed": 0.1}
    value = {"schema": 2, "budget_s": 5.0, "seconds": 1.0, "batch": 1, "chosen": chosen, "total": total}
    remember(tuning_key(job), value | {"sqnr_db": sqnr_db, "trials": [], "not_reached": []} | more)


@pytest.mark.slow
def test_a_cached_choice_is_used_and_said_and_proved(tmp_path: Path, watcher: Watcher) -> None:
    """Of the other form of the shortcuts, with one half of one in float."""
    asked = options(tmp_path / "run", seed=1, tune_loss=0.2)
    reason = "kept float: int8 is slower here (2.00 ms against 1.00)"
    chosen = {"split_shortcut": True, "float_layers": {f"{SHORTCUT}.first": reason, f"{ATTENTION}.to_q": reason}}
    chosen_before(prepare(asked.resolved(), watcher), chosen)
    folder = run(asked, watcher)
    assert not any(stage.startswith("tuning") for stage in watcher.stages)
    assert any("measured in an earlier run" in message for message in watcher.messages)
    assert read_json(folder / "tuning.json")["reused"] is True
    assert read_json(folder / "manifest.json")["verdict"]["ok"]
    assert tuned_layers(folder) == chosen["float_layers"]
    found = layers(folder)
    assert {found[name]["precision"] for name in chosen["float_layers"]} == {"float"}
    assert found[f"{SHORTCUT}.second"]["precision"] == "int8"
    assert "asked for by --keep-float" in found[f"{ATTENTION}.to_out.0"]["reason"]
    assert verify(folder, watcher, tiny.SPEC)["files"] > 10


def test_damage_in_mid_run_is_tuned_again_and_drops_what_was_made_with_the_other_choice(
    tmp_path: Path, watcher: Watcher
) -> None:
    asked = options(tmp_path / "run", tune_loss=0.3)
    job = prepare(asked.resolved(), watcher)
    chosen_before(job, {"split_shortcut": False, "float_layers": {}})
    pairs = calibration_pairs(job)
    choose(job, pairs)
    job.folder.save_json("units/000.safetensors", {})
    (job.folder.path / "tuning.json").write_text("{}")
    reason = "kept float: int8 is slower here (2.00 ms against 1.00)"
    chosen_before(job, {"split_shortcut": False, "float_layers": {f"{ATTENTION}.to_q": reason}})
    job = replace(job, plan=choose(job, pairs))
    assert job.folder.names == ["pairs.safetensors", "tuning.json"]
    assert {site.keep_float for site in job.sites if site.name == f"{ATTENTION}.to_q"} == {reason}


def test_a_search_that_ended_early_serves_no_longer_one(tmp_path: Path, watcher: Watcher) -> None:
    left = [{"what": "linears", "layers": [], "expected_ms": 0.0}]
    asked = options(tmp_path / "run", tune_loss=0.4)
    job = prepare(replace(asked, tune=1.0).resolved(), watcher)
    chosen_before(job, {"split_shortcut": False, "float_layers": {}}, budget_s=0.5, not_reached=left)
    path = cache_file(tuning_key(job))
    job = replace(job, plan=choose(job, calibration_pairs(job)))
    assert any(stage.startswith("tuning, ") for stage in watcher.stages)
    assert read_json(job.folder.path / "tuning.json")["reused"] is False
    assert json.loads(path.read_text())["tuning"]["budget_s"] == 1.0


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"target": "jetson-int8", "tune": 5.0},
            "--tune means nothing for jetson-int8\nleave it out, or .*: ort-int8, openvino-int8, trt-int8",
        ),
        ({"tune_loss": 1.0}, "--tune-loss bounds what --tune may choose\ngive --tune SECONDS too"),
    ],
    ids=["jetson", "loss alone"],
)
def test_what_cannot_be_tuned_is_refused_and_leaves_nothing(
    changed: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run(replace(tiny.options(tmp_path / "run"), **changed))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(availability("trt")[0], reason="TensorRT and a GPU are here")
def test_what_cannot_be_measured_here_is_said_before_work_begins(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(EnvironmentMissing, match="--tune measures trt-int8, which does not run here"):
        run(replace(tiny.options(out), target="trt-int8", tune=5.0))
    assert sorted(path.name for path in out.iterdir()) == ["request.json"]


def test_the_bench_changes_races_and_weighs_the_real_engine(tmp_path: Path, watcher: Watcher) -> None:
    job = prepare(options(tmp_path / "run").resolved(), watcher)
    start = Choice(split_shortcut=False)
    with JobBench(job, calibration_pairs(job)) as bench:
        to_q = bench.changed(start, Candidate("to_q", frozenset({f"{ATTENTION}.to_q"}), 0.0))
        assert to_q == Choice(False, frozenset({f"{ATTENTION}.to_q"}))
        assert bench.changed(to_q, Candidate("to_q", frozenset({f"{ATTENTION}.to_q"}), 0.0)) is None
        assert bench.changed(start, Candidate("all", bench.variant(start).int8, 0.0)) is None, "none would be int8"
        expected = dict.fromkeys(bench.variant(start).int8, "int8")
        before, after = (bench.engine(choice).executed_layers(expected) for choice in (start, to_q))
        floated = {
            a.name for a, b in zip(after, before, strict=True) if (a.precision, b.precision) == ("float", "int8")
        }
        assert floated == {f"{ATTENTION}.to_q"}
        race = bench.race(start, to_q, Protocol(warmup=1, min_rounds=12, min_seconds=0.0))
        assert (race.before.n, race.after.n) == (12, 12)
        int8 = bench.variant(start).int8
        one_left, none_left = replace(start, float_layers=int8 - to_q.float_layers), replace(start, float_layers=int8)
        assert bench.sqnr_db(start) + 3 < bench.sqnr_db(one_left) < bench.sqnr_db(none_left) == math.inf


@pytest.mark.parametrize(
    ("layers", "names", "found"),
    [
        ({"a"}, {"a", "b"}, {"a"}),
        ({"a"}, {"a.first", "a.second", "b"}, {"a.first", "a.second"}),
        ({"a.first", "a.second"}, {"a", "b"}, {"a"}),
        ({"a.first"}, {"a", "b"}, set()),
    ],
    ids=["itself", "split", "joined", "half"],
)
def test_layers_are_found_in_the_other_form_of_the_shortcuts(
    layers: set[str], names: set[str], found: set[str]
) -> None:
    assert renamed(frozenset(layers), frozenset(names)) == found
