"""A finished run in a temporary folder."""

from pathlib import Path

import pytest
from synthetic_run import write_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path / "digits")
