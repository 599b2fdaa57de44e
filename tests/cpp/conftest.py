"""The C++ library, compiled once per test run, and runs that it serves."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ptq_export.engines.cpp.onnxruntime_root import make_root
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.options import Options
from ptq_export.pipeline import run

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
    command = [str(tool("cmake")), *generator, "-S", str(source), "-B", str(build), f"-DONNXRUNTIME_ROOT={root}", *flags]
    subprocess.run(command, check=True, capture_output=True, text=True)
    return build


def compiled(build: Path, *targets: str) -> Path:
    """The same, compiled; a warning is an error."""
    command = [str(tool("cmake")), "--build", str(build), "--parallel", "2", *(["--target", *targets] if targets else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return build


@pytest.fixture(scope="session")
def onnxruntime_root(shared_folder: Path) -> Path:
    """ONNX Runtime's library and headers; the latter from $ONNXRUNTIME_HEADERS where it is set."""
    if tool("cmake") is None or tool("c++") is None:
        missing("no CMake or no C++ compiler")
    root, given = shared_folder / "onnxruntime", os.environ.get("ONNXRUNTIME_HEADERS")
    with (shared_folder / "onnxruntime.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            return make_root(root, Path(given) if given else None)
        except EnvironmentMissing as error:
            missing(error.in_one_line)
            raise


@pytest.fixture(scope="session")
def build(onnxruntime_root: Path, shared_folder: Path) -> Path:
    """The build folder, which the processes of this test run share."""
    folder = shared_folder / "cpp"
    with (shared_folder / "cpp.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            compiled(configured(onnxruntime_root, folder, "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_CXX_FLAGS_DEBUG=-O1"))
            (folder / "done").touch()
    return folder


@pytest.fixture(scope="session")
def call(build: Path) -> Call:
    """Runs a program: `call("probe", "sha256", path)`."""
    places = {"sample_images": build / "ptq_export" / "sample_images"}

    def run_program(name: str, *words: object) -> subprocess.CompletedProcess[str]:
        command = [str(places.get(name, build / name)), *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)

    return run_program


@pytest.fixture(scope="session")
def finished_run(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run of the tiny DDIM; do not change it."""
    folder = shared_folder / "ddim_tiny"
    with (shared_folder / "ddim_tiny.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "manifest.json").exists():
            least = {"samples": 4, "steps": 2, "held_out": 2, "rounds": 10, "seconds": 0.1, "min_sqnr": 3.0}
            checkpoint = Path(__file__).parents[1] / "data" / "ddim_tiny.pt"
            quick = {"resolution": 16, "effort": "quick", "rounding": "nearest", "threads": 1}
            run(Options(str(checkpoint), out=folder, **quick, **least))  # type: ignore[arg-type]
    return folder


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    """The same in a folder of the test's own."""
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


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
