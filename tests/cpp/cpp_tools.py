"""Compiling the C++ library, calling its programs, and changing what they read."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptq_export.errors import InputError

__all__ = ["PROGRAMS", "SOURCES", "Call", "compiled", "configured", "edited", "missing", "refused", "tool"]

PROGRAMS = Path(__file__).parent / "programs"
SOURCES = Path(__file__).parents[2] / "engines" / "cpp"
REQUIRED = "PTQ_EXPORT_CPP"
"""Set to `required`, as in CI, a test fails where else it skips: nothing is left out there unnoticed."""

Call = Callable[..., subprocess.CompletedProcess[str]]


def tool(name: str) -> str | None:
    """A program of this environment, or of the system."""
    return shutil.which(name, path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def missing(reason: str) -> None:
    """Skip, or fail where nothing may be missing."""
    if os.environ.get(REQUIRED) == "required":
        pytest.fail(reason)
    pytest.skip(reason)


def configured(root: Path, build: Path, *flags: str, source: Path = PROGRAMS) -> Path:
    """A build folder of CMake."""
    ninja = tool("ninja")
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    places = ["-S", str(source), "-B", str(build), f"-DONNXRUNTIME_ROOT={root}"]
    command = [str(tool("cmake")), *generator, *places, *flags]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return build


def compiled(build: Path, *targets: str) -> Path:
    """The same, compiled; a warning is an error."""
    wanted = ["--target", *targets] if targets else []
    command = [str(tool("cmake")), "--build", str(build), "--parallel", "2", *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return build


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Write a JSON file again, changed."""
    value = json.loads(path.read_text(encoding="utf-8"))
    change(value)
    path.write_text(json.dumps(value), encoding="utf-8")


def refused(asked: Callable[[], object]) -> str:
    """Cause and remedy of the InputError that this raises, as a program prints them."""
    with pytest.raises(InputError) as caught:
        asked()
    return f"{caught.value}\n"
