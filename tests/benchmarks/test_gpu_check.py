"""`benchmarks/gpu_check.sh` without a GPU: what is missing for every step, at once, with exit code 3."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from ptq_export.engines.cuda.driver import count_gpus

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu_check.sh"
without_gpu = pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU here")


def check(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def steps_of(out: Path) -> dict[str, dict[str, str]]:
    return {step["name"]: step for step in json.loads((out / "summary.json").read_text())["steps"]}


@without_gpu
def test_every_step_says_what_is_missing(tmp_path: Path) -> None:
    done = check(tmp_path / "out")
    assert done.returncode == 3, done.stdout + done.stderr
    steps = steps_of(tmp_path / "out")
    engines = {f"{verb}-{name}" for verb in ("time", "run") for name in ("trt-int8", "trt-rtx-int8", "ort-trt-int8")}
    alone = {"device", "calibrate-digits", "calibrate-cifar10", "ceiling"}
    assert {"wheels", "environment", "tests", "clocks-before", "clocks-after"} | alone | engines <= set(steps)
    order = list(steps)
    assert max(map(order.index, alone)) < min(map(order.index, engines)), "first what needs no TensorRT"
    for name, step in steps.items():
        ran = name in ("wheels", "environment")
        assert step["status"] == ("ok" if ran else "missing") and (ran or step["note"]), step
    assert "no NVIDIA GPU" in steps["tests"]["note"] and "onnxruntime-gpu" in steps["run-ort-trt-int8"]["note"]
    assert done.stdout.endswith((tmp_path / "out" / "summary.txt").read_text())
    assert json.loads((tmp_path / "out" / "environment.json").read_text())["packages"]["torch"]


@without_gpu
def test_a_failed_step_stops_no_other_and_is_the_exit_code(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    done = check(tmp_path / "out", tmp_path / "wheels")
    steps = steps_of(tmp_path / "out")
    assert done.returncode == 1 and steps["wheels"]["status"] == "failed" and "exit" in steps["wheels"]["note"]
    assert steps["time-ort-trt-int8"]["status"] == "missing"


def test_what_its_programs_import_is_there() -> None:
    """They run only where a GPU is; what they are made of is moved here."""
    programs = re.findall(r"<<'PYTHON'\n(.*?)\nPYTHON\n", SCRIPT.read_text(), re.DOTALL)
    nodes = [node for program in programs for node in ast.walk(ast.parse(program))]
    froms = [node for node in nodes if isinstance(node, ast.ImportFrom) and str(node.module).startswith("ptq_export")]
    assert len(programs) == 5 and len(froms) > 10
    for node in froms:
        module = import_module(str(node.module))
        assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@pytest.mark.parametrize("arguments", [(), ("out", "absent-folder"), ("a", "b", "c")], ids=len)
def test_wrong_usage_is_refused(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = check(*(tmp_path / argument for argument in arguments))
    assert done.returncode == 2 and "usage" in done.stderr


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say() -> None:
    done = subprocess.run(["shellcheck", str(SCRIPT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
