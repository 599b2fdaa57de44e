"""Polygraphy's opinion of a real run: it agrees, it disagrees where it must, and bad input ends in one message."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import tiny
import torch

from ptq_export.artifacts import sha256_file
from ptq_export.benchmarks import second_opinion
from ptq_export.benchmarks.second_opinion import RunFiles, judge, main
from ptq_export.engines.build_cache import current, write_identity
from ptq_export.errors import InputError
from ptq_export.pipeline import run

with_tensorrt = pytest.mark.skipif(
    find_spec("tensorrt") is None or not torch.cuda.is_available(), reason="needs tensorrt and a GPU"
)


def test_polygraphy_sees_the_error_of_the_graph_in_what_is_served(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(finished), "--out", str(tmp_path / "opinion.json")]) == 0
    found = json.loads((tmp_path / "opinion.json").read_text())
    written, served = found["opinions"]
    assert (written["execution"], served["execution"]) == ("as written", "as served")
    assert written["gap_db"] == 0 and written["bound_db"] is None and 10 < written["snr_db"] < 100
    assert abs(served["gap_db"]) <= served["bound_db"] and served["max_difference"] > 0
    assert found["ok"] and (found["batches"], found["batch"], found["target"]) == (4, 1, "ort-int8")
    printed = capsys.readouterr().out
    assert "as served   eps" in printed and "no plan was run: the run holds none" in printed


def test_its_ratio_is_the_one_that_our_definition_gives(finished: Path) -> None:
    files = RunFiles(finished)
    feeds = files.feeds(2)
    written = second_opinion.measure(files, feeds)[0]
    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    sessions = [onnxruntime.InferenceSession(str(path), settings) for path in (files.reference, files.int8)]
    exact, int8 = ([torch.from_numpy(session.run(None, feed)[0]) for feed in feeds] for session in sessions)
    ratios = [ratio_db(a, b) for a, b in zip(exact, int8, strict=True)]
    assert written.snr_db == pytest.approx(sum(ratios) / 2, abs=0.01)


def ratio_db(exact: torch.Tensor, other: torch.Tensor) -> float:
    return float(10 * torch.log10(exact.square().sum() / (exact - other).square().sum()))


def test_an_execution_with_another_error_fails(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runners = second_opinion._runners

    def serve_full_precision(files: RunFiles, names: Sequence[str]) -> list[Any]:
        exact, written, _ = runners(files, names)
        return [exact, written, type(exact)(exact._sess, name=second_opinion.SERVED)]

    monkeypatch.setattr(second_opinion, "_runners", serve_full_precision)
    assert main([str(finished)]) == 1
    assert "another error than the graph's" in capsys.readouterr().out


@pytest.mark.parametrize(("pairs", "ok"), [(64, False), (4, True)])
def test_fewer_pairs_widen_the_bound_by_their_spread(pairs: int, ok: bool) -> None:
    reference, written = second_opinion.REFERENCE, second_opinion.WRITTEN
    snr = {(reference, written): [30.0] * 4, (reference, "other"): [28.0, 32.0, 31.5, 31.5]}
    results = {pair: [{"eps": SimpleNamespace(snr=value)} for value in values] for pair, values in snr.items()}
    simple = {(base, "other"): [{"eps": SimpleNamespace(max_absdiff=0.5)}] for base in (reference, written)}
    (opinion,) = judge("other", results, simple, pairs)
    assert opinion.gap_db == pytest.approx(0.75) and opinion.ok == ok and opinion.max_difference == 0.5


def test_the_least_batch_of_the_run_is_fed_in_full(copied: Path) -> None:
    manifest = json.loads((copied / "manifest.json").read_text())
    manifest["options"]["batch"] = "2:2:4"
    (copied / "manifest.json").write_text(json.dumps(manifest))
    assert [len(feed["sample"]) for feed in RunFiles(copied).feeds(64)] == [2, 2]
    with pytest.raises(InputError, match="no two batches of 2"):
        RunFiles(copied).feeds(3)


@pytest.mark.parametrize("damage", ["denoiser.ort-int8.onnx", "pairs.safetensors", "manifest.json"])
def test_a_damaged_run_is_refused(
    copied: Path, damage: str, flip: Callable[[Path], None], capsys: pytest.CaptureFixture[str]
) -> None:
    flip(copied / damage) if damage != "manifest.json" else (copied / damage).unlink()
    assert main([str(copied)]) == 2
    assert damage in capsys.readouterr().err


def test_without_polygraphy_it_says_what_to_install(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(second_opinion, "find_spec", lambda name: None)
    assert main([str(finished)]) == 3
    assert "pip install 'ptq-export[second-opinion]'" in capsys.readouterr().err


def test_a_plan_is_asked_for_only_where_it_can_run(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = copied / "denoiser.trt-int8.plan"
    plan.write_bytes(b"plan")
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "denoiser.ort-int8.onnx").rename(copied / "denoiser.trt-int8.onnx")
    artefacts = manifest["artefacts"]
    artefacts["denoiser.trt-int8.onnx"] = artefacts.pop("denoiser.ort-int8.onnx")
    artefacts[plan.name] = {"sha256": sha256_file(plan)}
    (copied / "manifest.json").write_text(json.dumps(manifest | {"target": "trt-int8"}))
    files = RunFiles(copied)
    assert files.plan == plan
    assert "did not build the plan" in second_opinion.missing_plan(files), "a plan is code"
    write_identity(plan, current("trt", {}, ""))
    files = RunFiles(copied)
    monkeypatch.setattr(second_opinion, "find_spec", lambda name: None)
    assert second_opinion.missing_plan(files) == "the package tensorrt is not installed"
    plan.write_bytes(b"another's")
    with pytest.raises(InputError, match="damaged"):
        RunFiles(copied)


@pytest.mark.gpu
@with_tensorrt
def test_the_plan_is_run_by_polygraphy_s_own_runner(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = replace(tiny.options(tmp_path / "trt"), target="trt-int8", rounding="nearest", samples=64, held_out=16)
    assert main([str(run(options))]) == 0
    assert "the plan    eps" in capsys.readouterr().out
