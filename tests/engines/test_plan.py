"""TensorRT for RTX, which builds without a GPU: our graphs are accepted, int8 weights stay int8, refusals are told."""

import ast
import json
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from convolutions import SIZE, Stack, quantised
from exported_net import exported

from ptq_export.engines.trt import build_plan, plan
from ptq_export.engines.trt.plan import RTX, BuilderSettings, make_plan, make_plan_here
from ptq_export.errors import EnvironmentMissing, GateFailed
from ptq_export.graph.model_file import save_model
from ptq_export.graph.passes.half_precision import HalfPrecision
from ptq_export.graph.passes.name_layers import NameLayers
from ptq_export.nn.scheme import ORT_CPU, TENSORRT
from ptq_export.options import CAPABILITIES

SCRIPT = Path(str(build_plan.__file__))
EMPTY = ir.Model(ir.Graph([], [], nodes=[]), ir_version=10)
with_rtx = pytest.mark.skipif(find_spec(RTX) is None, reason="TensorRT for RTX has no package for this platform")


def graph_of(stack: Stack, width: int, half: bool = True) -> ir.Model:
    graph = exported(stack, (width, SIZE, SIZE))
    NameLayers()(graph)
    return HalfPrecision()(graph).model if half else graph


def plan_bytes(graph: ir.Model, folder: Path) -> int:
    save_model(graph, folder / "net.onnx")
    return make_plan(RTX, folder / "net.onnx", folder / "net.plan", (1, 2, 4), graph).size_bytes


@with_rtx
def test_a_plan_grows_by_one_byte_per_int8_weight_and_by_two_per_float16_weight(tmp_path: Path) -> None:
    """The slope over two widths: a plan's size itself is mostly kernels."""
    widths, depth = (64, 192), 4
    weights = [depth * 9 * width * width for width in widths]
    for is_int8, bytes_per_weight in ((True, 1.0), (False, 2.0)):
        nets = [quantised(Stack(width, depth), TENSORRT) if is_int8 else Stack(width, depth) for width in widths]
        small, large = (plan_bytes(graph_of(net, width), tmp_path) for net, width in zip(nets, widths, strict=True))
        assert (large - small) / (weights[1] - weights[0]) == pytest.approx(bytes_per_weight, abs=0.1)


@with_rtx
def test_what_the_parser_refuses_is_said_in_its_words_with_our_modules(tmp_path: Path) -> None:
    graph = graph_of(quantised(Stack(16, 1), ORT_CPU), 16, half=False)
    save_model(graph, tmp_path / "net.onnx")
    with pytest.raises(GateFailed, match=r"Non-zero zero point is not supported(.|\n)*is part of layers\.0"):
        make_plan(RTX, tmp_path / "net.onnx", tmp_path / "net.plan", (1, 2, 4), graph)
    assert not (tmp_path / "net.plan").exists()


def test_a_builder_that_crashes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crash = tmp_path / "crash.py"
    crash.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(build_plan, "__file__", str(crash))
    with pytest.raises(GateFailed, match=r"tensorrt_rtx refuses net\.onnx:\n  it crashed \(SIGSEGV\)"):
        make_plan(RTX, tmp_path / "net.onnx", tmp_path / "net.plan", (1, 1, 1), EMPTY)


def run_script(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, check=False)


@with_rtx
def test_the_script_works_alone(tmp_path: Path) -> None:
    graph = graph_of(quantised(Stack(16, 1), TENSORRT), 16)
    save_model(graph, tmp_path / "net.onnx")
    done = run_script(str(tmp_path / "net.onnx"), "--package", RTX, "--batch", "2")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["strongly_typed"] is True
    (plan,) = tmp_path.glob("*.plan")
    assert plan.name == "net.plan" and plan.stat().st_mode & 0o777 == 0o644


def test_the_script_is_asked_for_the_batches_of_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    echo = tmp_path / "echo.py"
    echo.write_text("import sys; print('[E] asked for', *sys.argv[2:]); sys.exit(1)")
    monkeypatch.setattr(build_plan, "__file__", str(echo))
    with pytest.raises(GateFailed, match=r"--batch 1:2:4 --package tensorrt_rtx"):
        make_plan(RTX, tmp_path / "net.onnx", tmp_path / "net.plan", (1, 2, 4), EMPTY)


def test_a_package_that_cannot_work_here_is_the_environment_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unusable = tmp_path / "unusable.py"
    unusable.write_text("import sys; print('tensorrt 10.3 finds no GPU', file=sys.stderr); sys.exit(3)")
    monkeypatch.setattr(build_plan, "__file__", str(unusable))
    with pytest.raises(EnvironmentMissing, match="finds no GPU"):
        make_plan("tensorrt", tmp_path / "net.onnx", tmp_path / "net.plan", (1, 1, 1), EMPTY)


def test_the_script_is_python_3_8_without_our_package() -> None:
    tree = ast.parse(SCRIPT.read_text(), feature_version=(3, 8))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert all(name.partition(".")[0] in sys.stdlib_module_names for name in imported)


@pytest.mark.parametrize("batch", ["0", "4:2:1", "1:2", "some"])
def test_the_script_refuses_a_batch_that_is_no_range(batch: str) -> None:
    done = run_script("net.onnx", "--batch", batch)
    assert done.returncode == 2 and "--batch" in done.stderr


@pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
def test_the_script_without_tensorrt_says_so() -> None:
    done = run_script("net.onnx")
    assert (done.returncode, done.stdout) == (3, "") and "tensorrt cannot be imported" in done.stderr


@with_rtx
def test_how_hard_the_builder_searches_reaches_it(tmp_path: Path) -> None:
    graph = graph_of(quantised(Stack(16, 1), TENSORRT), 16)
    save_model(graph, tmp_path / "net.onnx")
    plan = make_plan(RTX, tmp_path / "net.onnx", tmp_path / "net.plan", (1, 1, 1), graph, BuilderSettings(0, 64))
    assert plan.size_bytes == (tmp_path / "net.plan").stat().st_size > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.onnx", "net.plan"]


@with_rtx
def test_a_plan_is_built_in_this_process_too(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trt = import_module(RTX)
    save_model(graph_of(quantised(Stack(16, 1), TENSORRT), 16), tmp_path / "net.onnx")
    make_plan_here(trt, tmp_path / "net.onnx", tmp_path / "net.plan", BuilderSettings(0))
    assert (tmp_path / "net.plan").stat().st_size > 0 and capfd.readouterr().out == ""
    save_model(graph_of(quantised(Stack(16, 1), ORT_CPU), 16), tmp_path / "net.onnx")
    with pytest.raises(GateFailed, match=f"{RTX} refuses net.onnx:(.|\n)*zero point"):
        make_plan_here(trt, tmp_path / "net.onnx", tmp_path / "net.plan", BuilderSettings(0))


@with_rtx
def test_the_parts_of_a_proof_share_one_builder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trt, made = import_module(RTX), []
    builder = trt.Builder
    monkeypatch.setattr(trt, "Builder", lambda logger: made.append(logger) or builder(logger))
    plan._kept_builder.cache_clear()
    save_model(graph_of(quantised(Stack(16, 1), TENSORRT), 16), tmp_path / "net.onnx")
    for name in ("first.plan", "second.plan"):
        make_plan_here(trt, tmp_path / "net.onnx", tmp_path / name, BuilderSettings(0))
    assert len(made) == 1 and (tmp_path / "second.plan").stat().st_size > 0


@with_rtx
@pytest.mark.parametrize(("names", "told"), [("7.5", ["SM75"]), ("8.6,12.0", ["SM86", "SM120"])])
def test_a_plan_is_for_the_compute_capabilities_that_are_named(names: str, told: list[str], tmp_path: Path) -> None:
    heard: list[str] = []

    def listen(trt: Any, builder: Any, network: Any, config: Any) -> None:
        count = config.num_compute_capabilities
        heard.extend(config.get_compute_capability(index).name for index in range(count))

    save_model(graph_of(quantised(Stack(16, 1), TENSORRT), 16), tmp_path / "net.onnx")
    asked = [str(tmp_path / "net.onnx"), "--package", RTX, "--compute-capability", names]
    assert build_plan.main(asked, listen) == 0
    assert heard == told and (tmp_path / "net.plan").stat().st_size > 0


@with_rtx
def test_a_compute_capability_that_is_unknown_is_the_environment_s_fault(tmp_path: Path) -> None:
    named = BuilderSettings(compute_capabilities=("9.0",))
    with pytest.raises(EnvironmentMissing, match=r"tensorrt_rtx 1\.\S+ cannot build for SM90"):
        make_plan(RTX, tmp_path / "net.onnx", tmp_path / "net.plan", (1, 1, 1), EMPTY, named)


@with_rtx
def test_the_known_compute_capabilities_are_those_of_the_package() -> None:
    offered = import_module(RTX).ComputeCapability.__members__
    assert set(build_plan.capability_names(",".join(CAPABILITIES))) == {name for name in offered if name[:2] == "SM"}


@pytest.mark.parametrize("names", ["75", "8.6,", "sm86", ""])
def test_the_script_refuses_what_is_no_compute_capability(names: str) -> None:
    done = run_script("net.onnx", "--package", RTX, "--compute-capability", names)
    assert done.returncode == 2 and "is not X.Y" in done.stderr


def test_the_script_refuses_a_compute_capability_for_tensorrt_which_builds_for_its_gpu() -> None:
    done = run_script("net.onnx", "--compute-capability", "7.5")
    assert done.returncode == 2 and "TensorRT builds for the GPU that is there" in done.stderr


@with_rtx
def test_a_graph_without_an_open_dimension_needs_no_profile(tmp_path: Path) -> None:
    graph = graph_of(quantised(Stack(16, 1), TENSORRT), 16)
    for value in graph.graph.inputs:
        value.shape = ir.Shape([2, *(value.shape or ())[1:]])
    save_model(graph, tmp_path / "net.onnx")
    assert make_plan(RTX, tmp_path / "net.onnx", tmp_path / "net.plan", (1, 1, 1), graph).size_bytes > 0


def test_settings_are_told_only_where_they_are_given() -> None:
    assert BuilderSettings().arguments() == []
    assert BuilderSettings(5, 512).arguments() == ["--builder-level", "5", "--workspace", "512"]
    named = BuilderSettings(compute_capabilities=("8.6", "8.9"))
    assert named.arguments() == ["--compute-capability", "8.6,8.9"]
    assert named.identity() == {"compute_capabilities": ["8.6", "8.9"]} and BuilderSettings().identity() == {}
