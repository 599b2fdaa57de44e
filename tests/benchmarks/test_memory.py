from pathlib import Path

import numpy as np
import pytest

from ptq_export.benchmarks.timing.memory import peak_memory_bytes
from ptq_export.errors import PtqExportError

ENGINES = """
import sys
import numpy as np

def load(size):
    kept = np.ones(int(size), np.uint8)
    def engine(sample, timestep):
        assert sample.shape == (2, 1, 4, 4) and timestep.shape == (2,)
        assert "torch" not in sys.modules
        return sample * kept[0]
    return engine

def broken(path):
    raise ValueError(f"{path} is damaged")
"""
MIB = 1 << 20


def feeds(batch: int) -> dict[str, np.ndarray]:
    return {"sample": np.zeros((batch, 1, 4, 4), np.float32), "timestep": np.zeros(batch, np.int64)}


@pytest.fixture
def engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    (tmp_path / "hand_made_engines.py").write_text(ENGINES)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(tmp_path)
    import hand_made_engines

    return hand_made_engines


def test_peak_grows_by_what_the_engine_holds(engines) -> None:  # type: ignore[no-untyped-def]
    small, large = (peak_memory_bytes(engines.load, [str(size)], feeds(2)) for size in (1, 100 * MIB))
    assert 5 * MIB < small < 150 * MIB
    assert 95 * MIB < large - small < 110 * MIB


def test_memory_of_the_parent_does_not_count(engines) -> None:  # type: ignore[no-untyped-def]
    held = np.ones(400 * MIB, np.uint8)
    assert peak_memory_bytes(engines.load, ["1"], feeds(2)) < held.nbytes / 2


def test_failure_of_the_child_is_named(engines) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(PtqExportError, match=r"model.onnx could not be measured \(exit 1\)") as failure:
        peak_memory_bytes(engines.broken, ["model.onnx"], feeds(1))
    assert "ValueError: model.onnx is damaged" in failure.value.remedy
