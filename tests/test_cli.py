"""The command line as a user meets it: what it prints where, how soon, and how it ends."""

import json
import os
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from ptq_export.options import PRESETS, Options


def ptq_export(*arguments: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "ptq_export", *map(str, arguments)]
    environment = {**os.environ, "COLUMNS": "200", "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120)


def test_help_shows_every_knob_and_what_the_presets_set() -> None:
    done = ptq_export("--help")
    flags = {f"--{field.name.replace('_', '-')}" for field in fields(Options)}
    assert done.returncode == 0
    assert flags <= set(done.stdout.split())
    for name, preset in PRESETS.items():
        assert f"{name}: " + ", ".join(f"{knob} {value}" for knob, value in preset.items()) in " ".join(
            done.stdout.replace("│", " ").split()
        )


def test_command_alone_shows_the_help() -> None:
    done = ptq_export()
    assert (done.returncode, done.stdout.strip()) == (2, ptq_export("--help").stdout.strip())


def test_version_is_the_package_s() -> None:
    from importlib.metadata import version

    done = ptq_export("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"ptq-export {version('ptq-export')}\n", "")


def test_help_and_targets_import_no_torch() -> None:
    script = "import sys, ptq_export.cli, ptq_export.targets, ptq_export.engines; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_targets_are_listed_as_a_table_and_as_json() -> None:
    done = ptq_export("targets")
    assert done.returncode == 0 and "ort-int8" in done.stdout
    value = json.loads(ptq_export("targets", "--json").stdout)
    assert value["targets"]["ort-int8"] == {"available": True, "missing": ""}
    assert json.loads(ptq_export("--json", "targets").stdout) == value


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--target", "ort-int8"], 2, "--ckpt is missing"),
        (["--ckpt", "absent.pt"], 2, "absent.pt"),
        (["--ckpt", "embedded:digits", "--target", "ort-int9"], 2, "did you mean ort-int8?"),
        (["--ckpt", "embedded:digits", "--policy", "ndtd"], 2, "did you mean ndtc?"),
        (["--ckpt", "embedded:digits", "--batch", "0"], 2, "--batch"),
        (["--ckpt", "embedded:digits", "--effort", "fast"], 2, "quick"),
        (["--ckpt", "embedded:digits", "verify", "somewhere"], 2, "takes no knobs of the main job"),
        (["verify", "absent"], 2, "absent"),
        (["benhc", "absent"], 2, "bench"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_bad_usage_names_the_cause_without_a_trace_and_leaves_nothing(
    arguments: list[str], code: int, message: str, tmp_path: Path
) -> None:
    done = ptq_export(*arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_trace_is_shown_on_request() -> None:
    assert "Traceback" in ptq_export("--ckpt", "absent.pt", "-vv").stderr


def test_json_names_the_error_on_stdout(tmp_path: Path) -> None:
    done = ptq_export("--ckpt", "x", "--target", "ort-int9", "--json", cwd=tmp_path)
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["exit_code"]) == (2, 2)
    assert error["cause"] == "unknown target 'ort-int9'"


def test_default_run_folder_is_named_after_checkpoint_and_target() -> None:
    assert Options("checkpoints/model-790000.ckpt").folder == Path("runs/model-790000-ort-int8")
    assert Options("embedded:digits", "ort-fp32").folder == Path("runs/embedded-digits-ort-fp32")
    assert Options("package.module:factory", out=Path("here")).folder == Path("here")


def test_preset_fills_only_the_knobs_that_are_not_given() -> None:
    options = Options("embedded:digits", effort="quick", samples=7).resolved()
    assert (options.samples, options.steps) == (7, PRESETS["quick"]["steps"])


def test_run_folder_that_cannot_be_made_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file")
    done = ptq_export("--ckpt", "embedded:digits", "--out", tmp_path / "occupied" / "run", cwd=tmp_path)
    assert done.returncode == 2
    assert "cannot write" in done.stderr and "Traceback" not in done.stderr
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("occupied", "a file")]
