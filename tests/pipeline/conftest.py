"""One whole run of the tiny denoiser, made once per test run; tests that change it work on a copy."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import SPEC

from ptq_export.options import Options
from ptq_export.pipeline import run


def tiny_options(out: Path) -> Options:
    """The least that the main job can be asked for."""
    return Options(
        SPEC, out=out, samples=4, steps=3, iterations=2, held_out=2, rounds=10, seconds=0.1, seed=5, threads=1
    )


class Watcher:
    """Progress that remembers what it was told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.messages: list[str] = []

    def stage(self, name: str, total: int | None) -> None:
        self.stages.append(name)

    def advance(self, n: int = 1) -> None:
        """Not remembered."""

    def message(self, text: str) -> None:
        self.messages.append(text)


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder; do not change it."""
    return run(tiny_options(tmp_path_factory.mktemp("runs") / "tiny"))


@pytest.fixture
def options() -> Callable[[Path], Options]:
    return tiny_options


@pytest.fixture
def copy(finished: Path, tmp_path: Path) -> Path:
    """The same run in a folder of the test's own."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


@pytest.fixture
def flip() -> Callable[[Path], None]:
    """Flips one bit in the middle of a file."""

    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return change


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let other processes find the factory."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)
