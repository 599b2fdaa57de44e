"""A run that stopped goes on where it stopped, and ends with the bytes of a run that did not."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from diffusers.models.upsampling import Upsample2D
from watcher import Watcher

from ptq_export.artifacts import sha256_file
from ptq_export.benchmarks import parity
from ptq_export.errors import GateFailed, InputError
from ptq_export.pipeline import run, try_run
from ptq_export.pipeline.graphs import export_graphs
from ptq_export.pipeline.linears import choose_inputs
from ptq_export.pipeline.run import prepare
from ptq_export.pipeline.stages import calibration_pairs, quantised

KILLED = """
import os, signal, sys
from pathlib import Path
import tiny
from ptq_export.pipeline import run

class Progress:
    def stage(self, name, total):
        self.name, self.done = name, 0

    def advance(self, n=1):
        self.done += n
        if self.name.startswith("calibration, ") and self.done == 3:
            os.kill(os.getpid(), signal.SIGKILL)

    def message(self, text):
        pass

run(tiny.options(Path(sys.argv[1])), Progress())
"""


@pytest.mark.usefixtures("exported_anew")
def test_run_killed_in_mid_calibration_ends_with_the_same_onnx(
    finished: Path, tmp_path: Path, watcher: Watcher
) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(folder)]
    done = subprocess.run(command, cwd=Path(tiny.__file__).parent, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = {path.name: path.stat().st_mtime_ns for path in (folder / "units").iterdir()}
    assert sorted(kept) == ["000.safetensors", "001.safetensors", "002.safetensors"]

    job = prepare(tiny.options(folder).resolved(), watcher)
    pairs = calibration_pairs(job)
    job = replace(job, plan=choose_inputs(job, pairs))
    export_graphs(job, quantised(job, pairs))

    assert "calibration pairs" not in watcher.stages
    assert {name: (folder / "units" / name).stat().st_mtime_ns for name in kept} == kept
    for name in ("quantised.safetensors", "denoiser.fp32.onnx", "denoiser.ort-int8.onnx"):
        assert sha256_file(folder / name) == sha256_file(finished / name), name


def test_finished_run_is_not_done_again(finished: Path, watcher: Watcher) -> None:
    before = sha256_file(finished / "manifest.json")
    assert run(tiny.options(finished), watcher) == finished
    assert watcher.stages == []
    assert any("finished already" in message for message in watcher.messages)
    assert sha256_file(finished / "manifest.json") == before


def test_other_options_are_refused_and_named(finished: Path) -> None:
    before = sha256_file(finished / "request.json")
    with pytest.raises(InputError, match=r"other options \(metric: 'l2.4' there, 'kl' now; seed: 0 there, 1 now\)"):
        run(replace(tiny.options(finished), seed=1, metric="kl"))
    assert sha256_file(finished / "request.json") == before


def test_other_blocks_are_refused_and_named(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The units are kept by their places: those of other blocks would be other units."""
    denoiser = tiny.denoiser
    monkeypatch.setattr(tiny, "denoiser", lambda: replace(denoiser(), blocks=(Upsample2D,)))
    with pytest.raises(InputError, match="blocks: None there, 'Upsample2D' now"):
        run(tiny.options(finished))


def test_proof_that_fails_is_raised_after_everything_was_written(
    copied: Path, flip: Callable[[Path], None], watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    flip(copied / "parity.json")
    monkeypatch.setattr(parity, "MAX_GAP_DB", -100.0)
    with pytest.raises(GateFailed, match=r"proofs that do not hold, 10:\n  t = \d+: engine"):
        run(tiny.options(copied), watcher)
    manifest = json.loads((copied / "manifest.json").read_text())
    assert watcher.stages[0] == "engine", "what was whole was made again"
    assert "latency per step of 1" not in watcher.stages, "what was whole was made again"
    assert manifest["verdict"]["ok"] is False
    assert len(manifest["verdict"]["failures"]) == 10
    assert manifest["artefacts"]["parity.json"]["sha256"] == sha256_file(copied / "parity.json")
    assert manifest["timings_s"].keys() >= {"calibration pairs", "latency per step of 1"}, "an earlier session's times"
    assert "FAIL" in (copied / "report.html").read_text()
    result = try_run(tiny.options(copied))
    assert (result.path, list(result.failures)) == (copied, manifest["verdict"]["failures"])
