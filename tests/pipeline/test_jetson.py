"""Target jetson-int8: a bundle that is whole, knows no path of this machine, and holds the graph that was proved."""

import json
import shutil
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny

from ptq_export.artifacts import sha256_file
from ptq_export.calibrators.quantise import quantised_modules
from ptq_export.engines.trt.plan import RTX, make_plan
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.graph.model_file import load_model
from ptq_export.pipeline import build_bundle, load_engine, run, verify
from ptq_export.pipeline.commands.reopened import reopen, simulate
from ptq_export.pipeline.progress import SILENT

FILES = {"README.md", "build.py", "bench.py", "build_plan.py", "ina3221.py", "load_plan.cpp", "CMakeLists.txt"}
without_tensorrt = pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
with_rtx = pytest.mark.skipif(find_spec(RTX) is None, reason="TensorRT for RTX has no package for this platform")


def make(folder: Path, release: int | None) -> Path:
    options = replace(tiny.options(folder), rounding="nearest", samples=8, held_out=16)
    return run(replace(options, target="jetson-int8", jetpack=release))


@pytest.fixture(scope="module")
def orin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for JetPack 6, the default; do not change it."""
    return make(tmp_path_factory.mktemp("runs") / "orin", None)


@pytest.fixture(scope="module")
def xavier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run for JetPack 5; do not change it."""
    return make(tmp_path_factory.mktemp("runs") / "xavier", 5)


def read(path: Path) -> dict[str, object]:
    value: dict[str, object] = json.loads(path.read_text())
    return value


def outputs(path: Path, level: ort.GraphOptimizationLevel, also: str = "") -> list[np.ndarray]:
    proto = onnx.load(path)
    if also:
        proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(also))
    options = ort.SessionOptions()
    options.graph_optimization_level, options.log_severity_level = level, 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    sample = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    found: list[np.ndarray] = session.run(None, {"sample": sample, "timestep": np.array([3, 900])})
    return found


def test_the_run_is_finished_and_proved_and_its_bundle_is_in_the_manifest(orin: Path) -> None:
    manifest = read(orin / "manifest.json")
    assert manifest["verdict"]["ok"] and manifest["verdict"]["valid"] is None
    bundle = {path.name for path in (orin / "jetson").iterdir()}
    assert bundle >= FILES | {"bundle.json", "denoiser.onnx", "baseline.onnx"}
    for name in bundle:
        assert manifest["artefacts"][f"jetson/{name}"]["sha256"] == sha256_file(orin / "jetson" / name)
    assert "UNTIMED" in (orin / "report.html").read_text()
    assert verify(orin, SILENT, tiny.SPEC)["files"] == len(manifest["artefacts"])


def test_the_description_says_what_the_programs_need(orin: Path, xavier: Path) -> None:
    found = read(orin / "jetson" / "bundle.json")
    assert found["onnx_sha256"] == sha256_file(orin / "jetson" / "denoiser.onnx")
    assert (found["jetpack"], found["tensorrt"], found["batch"]) == (6, "10.3", [1, 4, 64])
    assert ([each["shape"] for each in found["inputs"]], found["num_train_timesteps"]) == ([[1, 8, 8], []], 1000)
    assert read(xavier / "jetson" / "bundle.json")["tensorrt"] == "8.5"
    for run_folder, fp16 in ((orin, "graph"), (xavier, "flag")):
        sha256 = sha256_file(run_folder / "jetson" / "baseline.onnx")
        baseline = read(run_folder / "jetson" / "bundle.json")["baseline"]
        assert baseline == {"onnx": "baseline.onnx", "onnx_sha256": sha256, "fp16": fp16}


def test_no_file_of_a_bundle_knows_a_path_of_this_machine(orin: Path, xavier: Path) -> None:
    for run_folder in (orin, xavier):
        for path in (run_folder / "jetson").iterdir():
            content = path.read_bytes()
            for place in (run_folder, Path(__file__).parents[2], Path.home() / "x", Path(sys.prefix)):
                assert str(place).encode() not in content, path.name


def test_jetpack_6_gets_the_very_graph_that_was_proved(orin: Path) -> None:
    assert (orin / "jetson" / "denoiser.onnx").read_bytes() == (orin / "denoiser.jetson-int8.onnx").read_bytes()
    assert load_model(orin / "jetson" / "denoiser.onnx").opset_imports[""] == 20


def test_jetpack_5_gets_float32_in_opset_17_that_the_checker_accepts(xavier: Path) -> None:
    path = xavier / "jetson" / "denoiser.onnx"
    onnx.checker.check_model(onnx.load(path), full_check=True)
    model = load_model(path)
    assert (model.opset_imports[""], model.ir_version) == (17, 8)
    kinds = {str(value.dtype) for value in model.graph.initializers.values()}
    assert "FLOAT16" not in kinds
    assert not {node.op_type for node in model.graph} & {"GroupNormalization", "LayerNormalization"}
    int8 = [value for value in model.graph.initializers.values() if str(value.dtype) == "INT8"]
    assert int8 and not any(value.const_value.numpy().any() for value in int8), "only zero points"


def test_jetpack_5_computes_what_was_proved_and_what_the_simulation_computes(xavier: Path) -> None:
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        proved, sent = (
            outputs(path, level)[0]
            for path in (xavier / "denoiser.jetson-int8.onnx", xavier / "jetson" / "denoiser.onnx")
        )
        np.testing.assert_array_equal(sent, proved)
    parity = read(xavier / "parity.json")
    assert all(row["ok"] for row in (*parity["local"], *parity["global"]))
    assert verify(xavier, SILENT, tiny.SPEC)["parity"] > 20


def test_jetpack_5_quantises_every_weight_to_its_learned_codes(xavier: Path) -> None:
    layers = quantised_modules(simulate(reopen(xavier, SILENT, tiny.SPEC)))
    path = xavier / "jetson" / "denoiser.onnx"
    nodes = {node.name: node for node in load_model(path).graph}
    assert len(layers) > 20
    for name, layer in layers.items():
        quantise = nodes[name].inputs[1].producer().inputs[0].producer()
        assert quantise.op_type == "QuantizeLinear"
        codes = outputs(path, ort.GraphOptimizationLevel.ORT_DISABLE_ALL, str(quantise.outputs[0].name))[-1]
        np.testing.assert_array_equal(codes, layer.weight_codes.numpy(), err_msg=name)


def test_the_baseline_is_the_same_network_in_float(orin: Path, xavier: Path) -> None:
    assert (orin / "jetson" / "baseline.onnx").read_bytes() == (orin / "denoiser.fp16.onnx").read_bytes()
    path = xavier / "jetson" / "baseline.onnx"
    assert load_model(path).opset_imports[""] == 17
    sent, full = (
        outputs(each, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)[0] for each in (path, xavier / "denoiser.fp32.onnx")
    )
    np.testing.assert_allclose(sent, full, rtol=0, atol=1e-5)
    for folder in (orin, xavier):
        operators = {node.op_type for node in load_model(folder / "jetson" / "baseline.onnx").graph}
        assert "Conv" in operators and not any("Quantize" in operator for operator in operators)


@with_rtx
def test_the_parser_and_builder_of_tensorrt_for_rtx_accept_the_graphs(orin: Path, xavier: Path, tmp_path: Path) -> None:
    assert list(read(orin / "tensorrt.json")["plans"]) == [RTX] and not list(orin.glob("*.plan"))
    graphs = [
        xavier / "jetson" / "denoiser.onnx",
        xavier / "jetson" / "baseline.onnx",
        orin / "jetson" / "baseline.onnx",
    ]
    for index, source in enumerate(graphs):
        assert make_plan(RTX, source, tmp_path / f"{index}.plan", (1, 1, 1), load_model(source)).size_bytes > 0


def test_the_same_command_again_changes_nothing(orin: Path) -> None:
    files = [path for path in orin.rglob("*") if path.is_file() and path.name != "report.html"]
    before = [path.stat().st_mtime_ns for path in files]
    make(orin, None)
    assert [path.stat().st_mtime_ns for path in files] == before


@pytest.mark.parametrize("damage", ["gone", "changed"])
def test_a_damaged_bundle_is_made_again_and_what_the_device_added_stays(
    orin: Path, tmp_path: Path, damage: str
) -> None:
    folder = Path(shutil.copytree(orin, tmp_path / "orin"))
    script, plan = folder / "jetson" / "bench.py", folder / "jetson" / "denoiser.plan"
    plan.write_bytes(b"built on the device")
    script.unlink() if damage == "gone" else script.write_text("damaged")
    make(folder, None)
    assert sha256_file(script) == sha256_file(orin / "jetson" / "bench.py")
    assert plan.read_bytes() == b"built on the device"


def test_an_interrupted_bundle_leaves_no_description(
    orin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(orin, tmp_path / "orin"))
    (folder / "manifest.json").unlink()
    shutil.rmtree(folder / "jetson")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("ptq_export.engines.jetson.bundle.shutil.copyfile", fail)
        make(folder, None)
    left = [path.name for path in (folder / "jetson").iterdir()]
    assert left == []
    make(folder, None)
    assert (folder / "jetson" / "bundle.json").is_file() and (folder / "manifest.json").is_file()


@without_tensorrt
def test_a_bundle_cannot_be_built_here_and_the_remedy_is_told(orin: Path) -> None:
    for place in (orin, orin / "jetson"):
        with pytest.raises(EnvironmentMissing, match=r"tensorrt cannot be imported(.|\n)*python3 build\.py") as caught:
            build_bundle(place)
        assert caught.value.exit_code == 3


def test_what_is_no_bundle_or_no_argument_is_refused(orin: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no bundle\.json"):
        build_bundle(tmp_path)
    with pytest.raises(InputError, match="--batch"):
        build_bundle(orin, ["--batch", "0"])


def test_the_engine_is_the_device_s_business(orin: Path) -> None:
    with pytest.raises(EnvironmentMissing, match="on the device itself"):
        load_engine(orin)
