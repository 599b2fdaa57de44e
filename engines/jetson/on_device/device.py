"""What this Jetson is: its board, its JetPack, its memory, its power mode, its clocks; and whose plan it may run."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import subprocess
from pathlib import Path
from typing import Any

__all__ = [
    "available_mib",
    "differences",
    "gpu_clock_range",
    "identity",
    "power_mode",
    "read_description",
    "sha256_file",
    "sidecar_path",
]

ROOT = Path("/")
_GPU_NAMES = re.compile(r"gpu|ga10b|gv11b|gp10b|gm20b")


def identity(graph: dict[str, Any], tensorrt: str, gpu: str, root: Path = ROOT) -> dict[str, Any]:
    """Everything that decides whether a plan of `graph` (the bundle, or its baseline) may be loaded here; the form is
    that of ptq-export's own sidecars."""
    board = _text(root / "proc/device-tree/model").rstrip("\0") or "unknown"
    release = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", _text(root / "etc/nv_tegra_release"))
    l4t = ".".join(release.groups()) if release else "unknown"
    return {
        "engine": "jetson",
        "versions": {"tensorrt": tensorrt, "gpu": gpu, "l4t": l4t, "board": board},
        "onnx_sha256": graph["onnx_sha256"],
        "os": platform.system().lower(),
        "arch": platform.machine().lower(),
        "isa": [],
    }


def differences(plan: Path, here: dict[str, Any]) -> list[str]:
    """Why `plan` must not be loaded as `here`; empty where it may. A plan is code: its bytes are checked first."""
    sidecar = sidecar_path(plan)
    if not plan.is_file() or not sidecar.is_file():
        return [f"{(sidecar if plan.is_file() else plan).name} is not there"]
    found = json.loads(sidecar.read_text(encoding="utf-8"))
    if found.get("file_sha256") != sha256_file(plan):
        return [f"{plan.name} is damaged: its sha256 is not the one in {sidecar.name}"]
    return [f"{name}: {found.get(name)} instead of {value}" for name, value in here.items() if found.get(name) != value]


def read_description(folder: Path) -> dict[str, Any]:
    """`bundle.json`, its ONNX files proved whole.

    Raises:
        ValueError: the bundle is not complete, or damaged.
    """
    try:
        bundle: dict[str, Any] = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
        graphs = (bundle, bundle["baseline"])
        files = [
            (it[kind], it[kind + "_sha256"])
            for it in graphs
            for kind in ("onnx", "data")
            if kind in it or kind == "onnx"
        ]
        damaged = [name for name, sha256 in files if sha256_file(folder / name) != sha256]
    except (OSError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"the bundle is not complete: {error}") from error
    if damaged:
        raise ValueError(f"{' and '.join(damaged)} damaged: copy the bundle again")
    return bundle


def sidecar_path(plan: Path) -> Path:
    """`denoiser.identity.json` beside `denoiser.plan`."""
    return plan.with_suffix(".identity.json")


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            total.update(block)
    return total.hexdigest()


def available_mib(root: Path = ROOT) -> int | None:
    """Memory that can still be had, in MiB: on a Jetson the GPU takes it from the same chips."""
    found = re.search(r"^MemAvailable:\s+(\d+) kB", _text(root / "proc/meminfo"), re.MULTILINE)
    return int(found.group(1)) // 1024 if found else None


def power_mode(program: str = "nvpmodel") -> str | None:
    """The name of the power mode, e.g. `MAXN` or `15W`, as `nvpmodel -q` tells it; None where it does not."""
    try:
        done = subprocess.run([program, "-q"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"^NV Power Mode:\s*(\S+)", done.stdout, re.MULTILINE)
    return found.group(1) if found else None


def gpu_clock_range(root: Path = ROOT) -> tuple[int, int] | None:
    """Lowest and highest clock that the GPU may take now, in MHz; equal after `jetson_clocks`."""
    for device in sorted((root / "sys/class/devfreq").glob("*")):
        texts = [_text(device / name).strip() for name in ("min_freq", "max_freq")]
        if _GPU_NAMES.search(device.name) and all(text.isdigit() for text in texts):
            least, most = (int(text) // 1000000 for text in texts)
            return least, most
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
