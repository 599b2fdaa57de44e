"""A run's int8 graph with this package's operators and without them: the same network, and each start notices which."""

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest

from ptq_export.engines.ort import operators as ort_operators
from ptq_export.engines.ort.engine import OrtEngine

INT8 = "denoiser.ort-int8.onnx"


def domains(engine: OrtEngine) -> set[str]:
    return {node.domain for node in onnx.load(engine.optimised_path).graph.node}


@pytest.mark.usefixtures("operators")
def test_without_the_library_onnx_runtimes_own_operators_serve(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    engine = OrtEngine(finished / INT8, tmp_path)
    sample = np.random.default_rng(0).standard_normal((2, *engine.sample_shape)).astype(np.float32)
    assert "ptq_export" in domains(engine)
    with_ours = engine(sample, 500)
    monkeypatch.setattr(ort_operators, "library", lambda: None)
    with caplog.at_level(logging.INFO, logger="ptq_export"):
        engine = OrtEngine(finished / INT8, tmp_path)
    assert "operators none" in caplog.text
    assert "ptq_export" not in domains(engine)
    error = with_ours - engine(sample, 500)
    assert np.mean(error**2) < 0.02 * np.mean(with_ours**2), "the same but for flipped codes"


def test_the_exported_graph_has_none_of_them(finished: Path) -> None:
    assert {node.domain for node in onnx.load(finished / INT8).graph.node} == {""}
