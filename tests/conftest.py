"""What this package keeps in the user's cache folder goes to a folder of the test run's own."""

import os
import tempfile

import pytest

CACHE = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[CACHE] = tempfile.TemporaryDirectory(prefix="ptq-export-tests-")
    os.environ["XDG_CACHE_HOME"] = config.stash[CACHE].name


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[CACHE].cleanup()
