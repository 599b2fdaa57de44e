"""One whole run of the tiny denoiser, made once per test run; tests that change it work on a copy."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import tiny
from watcher import Watcher

from ptq_export.pipeline import run


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture(scope="session")
def finished(shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder; do not change it. Each process has a copy of its own: one at a time may open a run."""
    own, made = tmp_path_factory.mktemp("runs") / "tiny", shared_folder / "run"
    if made.exists():
        return Path(shutil.copytree(made, own))
    run(tiny.options(own))
    with suppress(OSError):  # another process has put its own there meanwhile
        Path(shutil.copytree(own, own.with_name("shared"))).rename(made)
    return own


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
