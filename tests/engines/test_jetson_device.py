"""What a Jetson tells of itself, and whose plan it refuses; on copies of the files that JetPack has."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from on_device import program

device = program("device")
BUNDLE = {"onnx": "denoiser.onnx", "onnx_sha256": "abc"}


@pytest.fixture
def orin(tmp_path: Path) -> Path:
    """The root of an Orin's file system, as far as it is read."""
    files = {
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
        "proc/meminfo": "MemTotal:        7653312 kB\nMemFree:          100000 kB\nMemAvailable:    4194304 kB\n",
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        "sys/class/devfreq/15a80000.nvenc/min_freq": "1\n",
        "sys/class/devfreq/15a80000.nvenc/max_freq": "2\n",
        "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """A plan with the sidecar that belongs to it."""
    path = tmp_path / "denoiser.plan"
    path.write_bytes(b"plan")
    here = identity()
    sidecar = here | {"file_sha256": device.sha256_file(path), "options": {"batch": [1, 1, 1]}}
    device.sidecar_path(path).write_text(json.dumps(sidecar))
    return path


def identity(tensorrt: str = "10.3.0", gpu: str = "8.7", sha256: str = "abc") -> dict[str, Any]:
    found: dict[str, Any] = device.identity(BUNDLE | {"onnx_sha256": sha256}, tensorrt, gpu)
    return found


def test_an_orin_is_known_by_its_files(orin: Path) -> None:
    versions = device.identity(BUNDLE, "10.3.0", "8.7", orin)["versions"]
    assert versions == {
        "tensorrt": "10.3.0",
        "gpu": "8.7",
        "l4t": "36.4.3",
        "board": "NVIDIA Jetson Orin Nano Developer Kit",
    }
    assert device.available_mib(orin) == 4096
    assert device.gpu_clock_range(orin) == (306, 1020)


@pytest.mark.parametrize("name", ["17000000.ga10b", "17000000.gv11b", "57000000.gpu", "gpu-gpc-0"])
def test_the_gpu_of_other_boards_is_found_by_its_name(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "sys/class/devfreq" / name
    folder.mkdir(parents=True)
    for file in ("min_freq", "max_freq"):
        (folder / file).write_text("1000000000")
    assert device.gpu_clock_range(tmp_path) == (1000, 1000)


def test_a_machine_that_is_no_jetson_is_unknown(tmp_path: Path) -> None:
    versions = device.identity(BUNDLE, "10.3.0", "8.9", tmp_path)["versions"]
    assert (versions["board"], versions["l4t"]) == ("unknown", "unknown")
    assert device.available_mib(tmp_path) is None and device.gpu_clock_range(tmp_path) is None


@pytest.mark.parametrize(
    ("printed", "mode"),
    [
        ("NV Power Mode: MAXN\\n0\\n", "MAXN"),
        ("NV Fan Mode:quiet\\nNV Power Mode: MODE_15W\\n2\\n", "MODE_15W"),
        ("NVPM WARN: fan mode is not set!\\nNV Power Mode: 15W\\n0\\n", "15W"),
        ("", None),
    ],
)
def test_the_power_mode_is_read_from_nvpmodel(printed: str, mode: str | None, tmp_path: Path) -> None:
    script = tmp_path / "nvpmodel"
    script.write_text(f"#!/bin/sh\n[ \"$1\" = -q ] && printf '{printed}'\n")
    script.chmod(0o755)
    assert device.power_mode(str(script)) == mode


def test_without_nvpmodel_the_power_mode_is_unknown() -> None:
    assert device.power_mode("absent-nvpmodel") is None


def test_a_plan_that_was_built_here_is_accepted(plan: Path) -> None:
    assert device.differences(plan, identity()) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tensorrt": "10.7.0"}, "'tensorrt': '10.3.0'.* instead of .*'tensorrt': '10.7.0'"),
        ({"gpu": "7.2"}, "'gpu': '8.7'.* instead of .*'gpu': '7.2'"),
        ({"sha256": "def"}, "onnx_sha256: abc instead of def"),
    ],
)
def test_a_plan_of_something_else_is_refused_with_the_difference(
    plan: Path, change: dict[str, str], reason: str
) -> None:
    (found,) = device.differences(plan, identity(**change))
    assert re.search(reason, found)


def test_a_damaged_or_absent_plan_is_refused(plan: Path) -> None:
    plan.write_bytes(b"other")
    assert device.differences(plan, identity()) == [
        "denoiser.plan is damaged: its sha256 is not the one in denoiser.identity.json"
    ]
    plan.unlink()
    assert device.differences(plan, identity()) == ["denoiser.plan is not there"]
