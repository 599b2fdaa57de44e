"""What this package keeps in the user's cache folder goes to a folder of the test run's own; our operators for ONNX
Runtime are there wherever a compiler is."""

import os
import tempfile
from pathlib import Path

import pytest

CACHE = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CACHE] = tempfile.TemporaryDirectory(prefix="ptq-export-tests-")
    os.environ["XDG_CACHE_HOME"] = config.stash[CACHE].name


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[CACHE].cleanup()


@pytest.fixture(scope="session")
def operators() -> Path:
    """Our operators for ONNX Runtime. A test skips only where nothing could have compiled them: else it fails."""
    from ptq_export.engines.ort import operators as compiled  # the cache folder is set by then

    library = compiled.library()
    if library is None and compiled.compiler() is None:
        pytest.skip("no C++ compiler")
    assert library is not None, compiled.missing_operators()
    return library
