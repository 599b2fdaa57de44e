"""The main job on OpenVINO: a scheme of its own, layers read back, parity, baselines; and every verb after it."""

import json
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import tiny

from ptq_export.benchmarks.environment import package_versions
from ptq_export.command_options import Sampling
from ptq_export.engines import availability
from ptq_export.errors import EnvironmentMissing
from ptq_export.graph.model_file import load_model
from ptq_export.pipeline import bench, load_engine, run, sample, verify
from ptq_export.pipeline.progress import SILENT


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("openvino")
    options = tiny.options(tmp_path_factory.mktemp("runs") / "openvino")
    return run(replace(options, target="openvino-int8", held_out=16))


def test_every_proof_holds_and_every_intended_layer_runs_int8(finished: Path) -> None:
    manifest = json.loads((finished / "manifest.json").read_text())
    assert manifest["verdict"]["ok"] and manifest["verdict"]["failures"] == []
    assert manifest["verdict"]["layers_read_from"] == "engine"
    rows = json.loads((finished / "layers.json").read_text())["layers"]
    assert {row["precision"] for row in rows if row["intended"] == "int8"} == {"int8"}
    assert manifest["verdict"]["baseline"] == "openvino-fp32"


def test_the_run_is_held_to_the_version_of_its_runtime(finished: Path) -> None:
    request, latency = (json.loads((finished / name).read_text()) for name in ("request.json", "latency.json"))
    manifest = json.loads((finished / "manifest.json").read_text())
    for versions in (request["versions"], manifest["versions"], latency["environment"]["versions"]):
        assert versions["openvino"] == version("openvino")
    assert "openvino" not in package_versions(), "other runtimes' runs are not"


def test_inputs_alone_are_quantised_and_weights_have_no_zero_point(finished: Path) -> None:
    graph = load_model(finished / "denoiser.openvino-int8.onnx").graph
    for node in graph:
        if node.op_type == "DequantizeLinear" and node.inputs[0] is not None and node.inputs[0].is_initializer():
            assert len(node.inputs) == 2
        if node.op_type in ("Conv", "Gemm"):
            assert all(use.node.op_type != "QuantizeLinear" for use in node.outputs[0].uses())


def test_it_is_timed_against_openvino_and_onnx_runtime(finished: Path) -> None:
    (first, *_) = json.loads((finished / "latency.json").read_text())["steps"]
    bf16 = ["openvino-bf16"] if availability("openvino-bf16")[0] else []
    assert list(first["candidates"]) == ["openvino-int8", "openvino-fp32", "ort-fp32", *bf16]


def test_the_verbs_work_on_it(finished: Path, tmp_path: Path) -> None:
    assert verify(finished, SILENT, tiny.SPEC)["parity"] > 20
    sample(finished, Sampling(tmp_path / "grid.png", count=2, steps=2), SILENT)
    assert (tmp_path / "grid.png").stat().st_size > 100
    assert bench(finished, SILENT)["steps"]
    x = np.zeros((2, 1, 8, 8), np.float32)
    int8, fp32 = load_engine(finished)(x, 500), load_engine(finished, "openvino-fp32")(x, 500)
    np.testing.assert_allclose(fp32, load_engine(finished, "ort-fp32")(x, 500), atol=1e-4)
    assert 0 < np.abs(int8 - fp32).max() < np.abs(fp32).max()


def test_without_openvino_nothing_is_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptq_export.engines.runtime.find_spec", lambda _: None)
    options = replace(tiny.options(tmp_path / "run"), target="openvino-int8")
    with pytest.raises(EnvironmentMissing, match=r"ptq-export\[openvino\]"):
        run(options)
    assert not (tmp_path / "run").exists()
