"""The C++ library, compiled once per test run, and a run that it serves."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from cpp_tools import Call, compiled, configured, missing, tool

from ptq_export.engines.cpp.onnxruntime_root import make_root
from ptq_export.engines.load import load_engine
from ptq_export.errors import EnvironmentMissing
from ptq_export.pipeline import run

sys.path.append(str(Path(__file__).parents[1] / "pipeline"))
import tiny


@contextmanager
def one_at_a_time(folder: Path, name: str) -> Iterator[None]:
    """Of the processes of this test run."""
    with (folder / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.fixture(scope="session")
def onnxruntime_root(shared_folder: Path) -> Path:
    """ONNX Runtime's library and headers; the latter from $ONNXRUNTIME_HEADERS where it is set."""
    if tool("cmake") is None or tool("c++") is None:
        missing("no CMake or no C++ compiler")
    given = os.environ.get("ONNXRUNTIME_HEADERS")
    with one_at_a_time(shared_folder, "onnxruntime"):
        try:
            return make_root(shared_folder / "onnxruntime", Path(given) if given else None)
        except EnvironmentMissing as error:
            missing(error.in_one_line)
            raise


@pytest.fixture(scope="session")
def build(onnxruntime_root: Path, shared_folder: Path) -> Path:
    """The build folder, which the processes of this test run share."""
    folder = shared_folder / "cpp"
    with one_at_a_time(shared_folder, "cpp"):
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
def served_run(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of the tiny denoiser `[1, 8, 8]`, its engines built by this process; do not change it."""
    own, made = tmp_path_factory.mktemp("runs") / "tiny", shared_folder / "run"
    if made.exists():
        shutil.copytree(made, own)
    else:
        run(tiny.options(own))
        with suppress(OSError):  # another process has put its own there meanwhile
            Path(shutil.copytree(own, own.with_name("shared"))).rename(made)
    load_engine(own)
    return own


@pytest.fixture
def copied_run(served_run: Path, tmp_path: Path) -> Path:
    """The same in a folder of the test's own."""
    return Path(shutil.copytree(served_run, tmp_path / "run"))
