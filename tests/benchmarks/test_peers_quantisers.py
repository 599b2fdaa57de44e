"""What the peers make: of our int8 layers, and of no others."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from peers_run import make_run

from ptq_export.artifacts import sha256_file
from ptq_export.benchmarks.peers.modelopt_onnx import ModelOpt
from ptq_export.benchmarks.peers.nncf_openvino import Nncf
from ptq_export.benchmarks.peers.ort_static import CALIBRATORS, OrtStatic
from ptq_export.benchmarks.peers.registry import PEERS
from ptq_export.benchmarks.peers.runtimes import RUNTIMES, Opened
from ptq_export.benchmarks.peers.subject import Subject, open_subject


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return open_subject([make_run(tmp_path_factory.mktemp("runs") / "ort")], tmp_path_factory.mktemp("steps"))


def opened(subject: Subject, file: Path, runtime: str, batch: int = 2) -> Opened:
    return RUNTIMES[runtime].open(subject, file, file.parent / "cache", batch, threads=1)


@pytest.mark.parametrize("calibrator", CALIBRATORS)
def test_every_calibrator_quantises_exactly_the_int8_layers(subject: Subject, tmp_path: Path, calibrator: str) -> None:
    OrtStatic(calibrator, reduce_range=False)(subject, tmp_path / "q.onnx")
    graph = onnx.load(tmp_path / "q.onnx").graph
    constants = {item.name for item in graph.initializer}
    dequantised = {node.output[0]: node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    quantised = [node for node in graph.node if any(dequantised.get(name) in constants for name in node.input[1:2])]
    assert sorted(node.name for node in quantised) == sorted(subject.layers)
    assert {node.op_type for node in quantised} == {"Conv", "MatMul"}
    assert all(node.input[0] in dequantised for node in quantised)


@pytest.mark.parametrize(("reduce_range", "largest"), [(False, 127), (True, 64)])
def test_weights_have_a_step_per_channel_and_keep_to_their_range(
    subject: Subject, tmp_path: Path, reduce_range: bool, largest: int
) -> None:
    OrtStatic("minmax", reduce_range)(subject, tmp_path / "q.onnx")
    graph = onnx.load(tmp_path / "q.onnx").graph
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    codes = {name: array for name, array in arrays.items() if array.dtype == np.int8 and array.ndim == 4}
    assert {np.abs(array.astype(int)).max() for array in codes.values()} == {largest}
    scales = [node.input[1] for node in graph.node if node.input and node.input[0] in codes]
    assert {arrays[scale].size for scale in scales} == {8}


def test_layers_that_onnx_runtime_runs_in_int8_are_counted(subject: Subject, tmp_path: Path) -> None:
    OrtStatic("minmax", reduce_range=False)(subject, tmp_path / "q.onnx")
    assert opened(subject, tmp_path / "q.onnx", "ort").int8_layers == len(subject.layers)
    assert opened(subject, subject.graph, "ort").int8_layers == 0


NNCF = [Nncf(), Nncf(mixed=True), Nncf(fast_bias_correction=False), Nncf(transformer=True, overflow_fix=True)]


@pytest.mark.parametrize("quantise", NNCF, ids=repr)
def test_nncf_quantises_our_layers_and_its_model_serves_any_batch(
    subject: Subject, tmp_path: Path, quantise: Nncf
) -> None:
    pytest.importorskip("nncf")
    quantise(subject, tmp_path / "q.xml")
    models = {batch: opened(subject, tmp_path / "q.xml", "openvino", batch) for batch in (1, 3)}
    assert {model.int8_layers for model in models.values()} == {len(subject.layers)}

    def feeds(count: int) -> dict[str, np.ndarray]:
        return {name: values[:count] for name, values in subject.pairs().items()}

    exact = opened(subject, subject.graph, "openvino", 3).call(feeds(3))
    error = np.linalg.norm(models[3].call(feeds(3)) - exact)
    assert 0 < error < 0.5 * np.linalg.norm(exact)
    np.testing.assert_allclose(models[1].call(feeds(1)), models[3].call(feeds(3))[:1], atol=1e-4)


def test_nncf_hybrid_has_int8_weights_everywhere_and_int8_activations_at_convolutions(
    subject: Subject, tmp_path: Path
) -> None:
    pytest.importorskip("nncf")
    import openvino

    Nncf(hybrid=True)(subject, tmp_path / "q.xml")
    nodes = openvino.Core().read_model(tmp_path / "q.xml").get_ordered_ops()
    products = {node.get_friendly_name(): node for node in nodes if node.get_type_name() in ("MatMul", "Convolution")}
    quantised = {name for name, node in products.items() if made_by(node, "FakeQuantize", port=0)}
    layers = {name for name in products if name.partition("/")[0] in subject.layers}
    convolutions = {name for name in layers if products[name].get_type_name() == "Convolution"}
    assert quantised & layers == convolutions and convolutions < layers
    codes = [
        node.data
        for node in nodes
        if node.get_element_type() in (openvino.Type.i8, openvino.Type.u8) and not node.inputs()
    ]
    assert len(codes) >= len(layers)


def made_by(node: Any, kind: str, port: int) -> bool:
    return bool(node.input_value(port).get_node().get_type_name() == kind)


@pytest.mark.parametrize(("overflow_fix", "largest"), [(False, 127), (True, 64)])
def test_nncf_keeps_all_weights_to_seven_bits_where_asked(
    subject: Subject, tmp_path: Path, overflow_fix: bool, largest: int
) -> None:
    pytest.importorskip("nncf")
    import openvino

    Nncf(overflow_fix=overflow_fix)(subject, tmp_path / "q.xml")
    nodes = openvino.Core().read_model(tmp_path / "q.xml").get_ordered_ops()
    codes = [node.data for node in nodes if node.get_element_type() == openvino.Type.i8 and not node.inputs()]
    assert len(codes) >= len(subject.layers)
    assert max(np.abs(array.astype(int)).max() for array in codes) == largest


def test_modelopt_gets_a_copy_of_the_graph(subject: Subject, tmp_path: Path) -> None:
    if missing := PEERS["modelopt max"].missing:
        pytest.skip(missing)
    before = sha256_file(subject.graph)
    ModelOpt("max")(subject, tmp_path / "q.onnx")
    assert sha256_file(subject.graph) == before
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".onnx"] == ["q.onnx"]


def test_both_runtimes_compute_the_same_float_network(subject: Subject) -> None:
    pytest.importorskip("openvino")
    feeds = {"sample": np.ones((2, *subject.sample_shape), np.float32), "timestep": np.full(2, 500)}
    first, second = (opened(subject, subject.graph, name).call(feeds) for name in ("ort", "openvino"))
    np.testing.assert_allclose(first, second, atol=1e-4)
