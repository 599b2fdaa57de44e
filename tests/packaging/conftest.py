"""Runs made by hand, in a folder of the test's own."""

from pathlib import Path

import pytest
from made_runs import GRAPH, labelled_run, prompted_run

from ptq_export.graph import model_file


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """A run whose engine takes a class of ten."""
    return labelled_run(tmp_path / "labelled")


@pytest.fixture
def prompted(tmp_path: Path) -> Path:
    """A run whose engine takes a prompt, of which a graph of its own computes keys, and a shift."""
    return prompted_run(tmp_path / "prompted")


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As `labelled`, the weights in a file of their own."""
    monkeypatch.setattr(model_file, "SELF_CONTAINED_BYTES", 100)
    monkeypatch.setattr(model_file, "INSIDE_BYTES", 16)
    run = labelled_run(tmp_path / "large")
    assert (run / f"{GRAPH}.data").is_file()
    return run
