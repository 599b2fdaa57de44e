"""TensorRT targets without a GPU: calibrated as such, linted, tried on TensorRT for RTX, proved by ONNX Runtime."""

import json
import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tiny

from ptq_export.artifacts import sha256_file
from ptq_export.command_options import Sampling
from ptq_export.engines import runtime
from ptq_export.engines.registry import availability
from ptq_export.engines.trt import checks
from ptq_export.engines.trt.plan import RTX
from ptq_export.engines.trt.plan_weights import StoredWeights
from ptq_export.errors import EnvironmentMissing, GateFailed, InputError
from ptq_export.graph.model_file import load_model
from ptq_export.graph.passes import half_precision
from ptq_export.pipeline import bench, load_engine, run, sample, verify
from ptq_export.pipeline.progress import SILENT

NEAREST = {"rounding": "nearest", "samples": 8, "held_out": 16}
with_rtx = pytest.mark.skipif(find_spec(RTX) is None, reason="TensorRT for RTX has no package for this platform")


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of target trt-rtx-int8; do not change it."""
    options = tiny.options(tmp_path_factory.mktemp("runs") / "rtx")
    return run(replace(options, target="trt-rtx-int8", **NEAREST))


def read(path: Path) -> dict[str, object]:
    value: dict[str, object] = json.loads(path.read_text())
    return value


@with_rtx
def test_the_graph_is_int8_around_zero_within_float16(planned: Path) -> None:
    graph = load_model(planned / "denoiser.trt-rtx-int8.onnx").graph
    quantisers = [node for node in graph if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert len(quantisers) > 60
    for node in quantisers:
        scale, zero_point = (node.inputs[index].const_value.numpy() for index in (1, 2))
        assert scale.dtype == np.float16 and zero_point.dtype == np.int8 and not zero_point.any()
    layers = [node for node in graph if node.op_type in ("Conv", "Gemm")]
    assert all(node.inputs[2].dtype == ir.DataType.FLOAT16 for node in layers)


@with_rtx
def test_the_builder_of_tensorrt_for_rtx_accepted_it_and_the_plan_is_kept(planned: Path) -> None:
    checked = read(planned / "tensorrt.json")
    assert checked["findings"] == []
    assert list(checked["plans"]) == [RTX]
    (plan,) = planned.glob("*.plan")
    assert plan.stat().st_size == checked["plans"][RTX]["size_bytes"]
    weights = checked["plans"][RTX]["weights"]
    assert weights["as_int8"] == weights["count"] > 10_000 and weights["bytes_per_weight"] == 1.0
    assert {plan.name, "denoiser.trt-rtx-int8.identity.json"} <= set(read(planned / "manifest.json")["artefacts"])
    identity = read(plan.with_name("denoiser.trt-rtx-int8.identity.json"))
    assert identity["options"] == {"batch": [1, 4, 64]} and identity["isa"] == []


@with_rtx
def test_every_proof_holds_and_nothing_is_said_of_speed(planned: Path) -> None:
    verdict = read(planned / "manifest.json")["verdict"]
    assert verdict["ok"] and verdict["failures"] == []
    assert verdict["speedup"] is None and verdict["valid"] is None and verdict["layers_read_from"] == "graph"
    assert not (planned / "latency.json").exists()
    page = (planned / "report.html").read_text()
    assert "UNTIMED" in page and "layers are int8 in the graph" in page
    assert "accepted by the TensorRT-RTX 1." in page and "1.00 byte per int8 weight" in page


@with_rtx
def test_what_needs_the_gpu_says_so(planned: Path, tmp_path: Path) -> None:
    for verb in (
        lambda: load_engine(planned),
        lambda: bench(planned, SILENT),
        lambda: sample(planned, Sampling(tmp_path / "grid.png"), SILENT),
    ):
        with pytest.raises(EnvironmentMissing):
            verb()


@with_rtx
def test_verify_executes_the_graph_without_the_gpu(planned: Path) -> None:
    assert verify(planned, SILENT, tiny.SPEC)["parity"] > 20


@with_rtx
@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_plan_that_is_not_whole_is_built_again(planned: Path, tmp_path: Path, damage: str) -> None:
    folder = Path(shutil.copytree(planned, tmp_path / "rtx"))
    (plan,) = folder.glob("*.plan")
    whole = plan.stat().st_size
    plan.unlink() if damage == "gone" else plan.write_bytes(b"damaged")
    run(replace(tiny.options(folder), target="trt-rtx-int8", **NEAREST))
    assert plan.stat().st_size == pytest.approx(whole, rel=0.01)
    assert read(folder / "manifest.json")["artefacts"][plan.name]["sha256"] == sha256_file(plan)


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_without_tensorrt_the_finished_onnx_and_the_build_script_are_left(tmp_path: Path) -> None:
    options = replace(tiny.options(tmp_path / "trt"), target="trt-int8", batch=8, **NEAREST)
    command = r"python build_plan\.py denoiser\.trt-int8\.onnx --package tensorrt --batch 8:8:8"
    with pytest.raises(EnvironmentMissing, match=command) as caught:
        run(options)
    assert caught.value.exit_code == 3 and "pip install tensorrt" in caught.value.cause
    assert read(tmp_path / "trt" / "manifest.json")["verdict"]["ok"]
    assert (tmp_path / "trt" / "build_plan.py").is_file() and not list((tmp_path / "trt").rglob("*.plan"))
    again = (tmp_path / "trt" / "denoiser.trt-int8.onnx").read_bytes()
    with pytest.raises(EnvironmentMissing, match="pip install tensorrt"):
        run(options)
    assert (tmp_path / "trt" / "denoiser.trt-int8.onnx").read_bytes() == again


@pytest.mark.skipif(availability("ort-trt")[0], reason="ONNX Runtime's TensorRT provider can be loaded here")
def test_without_its_provider_ort_trt_is_proved_written_and_refused(tmp_path: Path) -> None:
    options = replace(tiny.options(tmp_path / "run"), target="ort-trt-int8", **NEAREST)
    with pytest.raises(EnvironmentMissing, match=r"onnxruntime-gpu|NVIDIA") as caught:
        run(options)
    assert caught.value.exit_code == 3 and "ptq-export bench" in caught.value.remedy
    manifest = read(tmp_path / "run" / "manifest.json")
    assert manifest["verdict"]["ok"] and manifest["options"]["device"] == "cpu"
    assert {"denoiser.ort-trt-int8.onnx", "denoiser.fp16.onnx", "tensorrt.json"} <= set(manifest["artefacts"])
    assert read(tmp_path / "run" / "tensorrt.json")["findings"] == []


@with_rtx
def test_a_plan_for_turing_says_so_in_name_sidecar_and_script(tmp_path: Path) -> None:
    options = replace(tiny.options(tmp_path / "turing"), target="trt-rtx-int8", compute_capability="7.5", **NEAREST)
    folder = run(options)
    (plan,) = folder.glob("*.plan")
    assert plan.name == "denoiser.trt-rtx-int8.batch1-64-sm75.plan"
    identity = read(folder / "denoiser.trt-rtx-int8.identity.json")
    assert identity["options"] == {"batch": [1, 4, 64], "compute_capabilities": ["7.5"]}
    with pytest.raises(InputError, match=r"compute_capability: '7\.5' there, None now"):
        run(replace(options, compute_capability=None))


@with_rtx
def test_a_check_that_is_asked_for_later_is_made_up_for(tmp_path: Path) -> None:
    options = replace(tiny.options(tmp_path / "orin"), target="jetson-int8", check="none", **NEAREST)
    folder = run(options)
    assert read(folder / "tensorrt.json")["plans"] == {}
    assert "none has tried the graph" in (folder / "report.html").read_text()
    graph = (folder / "denoiser.jetson-int8.onnx").read_bytes()
    run(replace(options, check="rtx"))
    weights = read(folder / "tensorrt.json")["plans"][RTX]["weights"]
    assert weights["as_int8"] == weights["count"] > 0
    assert (folder / "denoiser.jetson-int8.onnx").read_bytes() == graph
    assert "1.00 byte per int8 weight" in (folder / "report.html").read_text()


@with_rtx
def test_a_check_that_was_asked_for_must_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(tiny.options(tmp_path / "orin"), target="jetson-int8", **NEAREST)

    def refuse(*arguments: object) -> None:
        raise GateFailed("tensorrt_rtx refuses it: no kernel")

    with monkeypatch.context() as patch:
        patch.setattr(checks, "make_plan", refuse)
        folder = run(options)
        assert "no kernel" in (folder / "report.html").read_text()
        with pytest.raises(GateFailed, match="no kernel"):
            run(replace(options, check="rtx"))
    monkeypatch.setattr(checks, "stored_weights", lambda graph, plan: StoredWeights(100, 60, 40))
    with pytest.raises(GateFailed, match="40 of 100 int8 weights do not lie in the plan"):
        run(replace(options, check="rtx"))
    monkeypatch.undo()
    assert run(replace(options, check="rtx")) == folder


def test_a_check_that_cannot_be_made_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "find_spec", lambda _: None)
    options = replace(tiny.options(tmp_path / "run"), target="jetson-int8", check="rtx")
    with pytest.raises(EnvironmentMissing, match="tensorrt_rtx is not installed") as caught:
        run(options)
    assert "pip install tensorrt-rtx" in caught.value.remedy and not (tmp_path / "run").exists()


@with_rtx
def test_a_builder_that_comes_later_finishes_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = replace(tiny.options(tmp_path / "rtx"), target="trt-rtx-int8", **NEAREST)
    with monkeypatch.context() as patch:
        patch.setattr(checks, "is_installed", lambda _: False)
        with pytest.raises(
            EnvironmentMissing, match=r"build_plan\.py denoiser\.trt-rtx-int8\.onnx --package tensorrt_rtx"
        ):
            run(options)
    assert read(tmp_path / "rtx" / "tensorrt.json")["plans"] == {}
    folder = run(options)
    (plan,) = folder.glob("*.plan")
    assert plan.name in read(folder / "manifest.json")["artefacts"]


def test_a_graph_that_breaks_a_rule_fails_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Shifted:
        def __call__(self, model: ir.Model) -> ir.passes.PassResult:
            for value in model.graph.initializers.values():
                if value.const_value is not None and value.const_value.dtype == ir.DataType.INT8 and not value.shape:
                    value.const_value = ir.tensor(np.int8(3), name=value.name)
            return ir.passes.PassResult(model, modified=True)

    monkeypatch.setattr(half_precision, "HalfPrecision", Shifted)
    options = replace(tiny.options(tmp_path / "trt"), target="trt-rtx-int8", **NEAREST)
    monkeypatch.setattr(checks, "is_installed", lambda _: False)
    with pytest.raises(GateFailed, match=r"zero-point: (.|\n)*zero point 3"):
        run(options)
    assert "zero point 3" in (tmp_path / "trt" / "report.html").read_text()
