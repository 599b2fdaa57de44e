"""Every tool is there by its default and in the forms that it offers; one that changes nothing here is left out."""

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import numpy_helper
from peers_run import make_run

from ptq_export.benchmarks.peers.ort_static import OrtStatic
from ptq_export.benchmarks.peers.registry import PEERS
from ptq_export.benchmarks.peers.runtimes import RUNTIMES
from ptq_export.benchmarks.peers.subject import Subject, open_subject
from ptq_export.processor import adds_in_16_bits, instruction_sets

NARROW = adds_in_16_bits(instruction_sets())


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return open_subject([make_run(tmp_path_factory.mktemp("runs") / "ort")], tmp_path_factory.mktemp("steps"))


@pytest.fixture(scope="module")
def heavy(subject: Subject, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ONNX Runtime's min-max graph, the weights of its convolutions as large as they can be and of one sign."""
    path = tmp_path_factory.mktemp("heavy") / "q.onnx"
    OrtStatic("minmax", reduce_range=False)(subject, path)
    model = onnx.load(path)
    for item in model.graph.initializer:
        if item.data_type == onnx.TensorProto.INT8 and len(item.dims) == 4:
            item.CopyFrom(numpy_helper.from_array(np.full(tuple(item.dims), 127, np.int8), item.name))
    onnx.save(model, path)
    return path


def test_every_tool_has_one_default() -> None:
    assert Counter(peer.tool for peer in PEERS.values() if peer.is_default) == dict.fromkeys(
        {peer.tool for peer in PEERS.values()}, 1
    )


def test_a_form_that_changes_nothing_on_this_processor_says_so_and_is_not_made() -> None:
    missing = PEERS["ort minmax, x64quantprecision"].missing
    assert missing == "" if NARROW else "adds int8 products in 32 bits" in missing
    assert PEERS["ort minmax, reduce_range"].missing == ""


def test_exact_sums_serve_weights_of_full_range_as_they_are_written(subject: Subject, heavy: Path) -> None:
    error = {name: _error(subject, heavy, name) for name in ("ort", "ort-u8u8")}
    assert error["ort-u8u8"] < 0.02
    assert (error["ort"] > 0.1) is NARROW


def _error(subject: Subject, file: Path, runtime: str) -> float:
    """Of an integer engine against the same graph computed in float on its grids, relative."""
    feeds = subject.pairs()
    settings = onnxruntime.SessionOptions()
    settings.add_session_config_entry("session.disable_quant_qdq", "1")
    written: NDArray[np.float32] = onnxruntime.InferenceSession(file, settings).run(None, feeds)[0]
    opened = RUNTIMES[runtime].open(subject, file, file.parent / runtime, len(written), threads=1)
    assert opened.int8_layers == len(subject.layers)
    return float(np.linalg.norm(opened.call(feeds) - written) / np.linalg.norm(written))
