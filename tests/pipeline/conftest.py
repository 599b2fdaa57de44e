"""One whole run of the tiny denoiser, made once per test run; tests that change it work on a copy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny
from watcher import Watcher

from ptq_export.pipeline import run


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder; do not change it."""
    return run(tiny.options(tmp_path_factory.mktemp("runs") / "tiny"))


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """The same run in a folder of the test's own."""
    return Path(shutil.copytree(finished, tmp_path / "copied"))


@pytest.fixture
def flip() -> Callable[[Path], None]:
    """Flips one bit in the middle of a file."""

    def change(path: Path) -> None:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)

    return change
