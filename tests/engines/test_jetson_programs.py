"""The programs of a bundle as the device meets them: old Pythons, nothing installed, arguments, exit codes."""

import ast
import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from on_device import FOLDER, PROGRAMS, program

NAMES = {path.stem for path in PROGRAMS}
# Came after Python 3.8, and would only be missed when it is called.
NEWER = {"removeprefix", "removesuffix", "is_relative_to", "with_stem", "pairwise", "batched", "lcm", "hardlink_to"}
without_tensorrt = pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
every_program = pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose graph is empty."""
    for path in (*PROGRAMS, *FOLDER.glob("*.cpp")):
        shutil.copy(path, tmp_path)
    (tmp_path / "denoiser.onnx").write_bytes(b"graph")
    sha256 = program("device").sha256_file(tmp_path / "denoiser.onnx")
    description = {"onnx": "denoiser.onnx", "onnx_sha256": sha256, "batch": [1, 4, 64]}
    (tmp_path / "bundle.json").write_text(json.dumps(description))
    return tmp_path


def run(folder: Path, *arguments: str, python: str = sys.executable) -> "subprocess.CompletedProcess[str]":
    command = [python, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@every_program
def test_it_is_python_3_8_and_needs_nothing_but_its_neighbours_and_tensorrt(path: Path) -> None:
    tree = ast.parse(path.read_text(), feature_version=(3, 8))
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names | NAMES | {"tensorrt"}
    assert not {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)} & NEWER
    assert not {keyword.arg for keyword in ast.walk(tree) if isinstance(keyword, ast.keyword)} & {"strict"}


@pytest.mark.parametrize("version", ["3.8", "3.10", "3.12"])
@pytest.mark.parametrize("name", ["build.py", "bench.py"])
def test_it_runs_in_the_python_of_each_jetpack(version: str, name: str, bundle: Path) -> None:
    python = shutil.which(f"python{version}")
    if python is None or run(bundle, "-c", "", python=python).returncode:
        pytest.skip(f"no Python {version} here")
    done = run(bundle, name, "--help", python=python)
    assert done.returncode == 0 and "--batch" in done.stdout


@without_tensorrt
@pytest.mark.parametrize(
    ("name", "message"), [("build.py", "tensorrt cannot be imported"), ("bench.py", "this machine cannot run")]
)
def test_without_tensorrt_it_says_so(name: str, message: str, bundle: Path) -> None:
    before = {path.name for path in bundle.iterdir()}
    done = run(bundle, name)
    assert (done.returncode, done.stdout) == (3, "") and message in done.stderr and "Traceback" not in done.stderr
    assert {path.name for path in bundle.iterdir()} - before <= {"__pycache__"}


@without_tensorrt
def test_without_a_gpu_nothing_is_built(bundle: Path) -> None:
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU here")
    (bundle / "tensorrt.py").write_text("__version__ = '10.3.0'\n")
    done = run(bundle, "build.py", "--batch", "1:2:4")
    assert (done.returncode, done.stdout) == (3, "") and "CUDA" in done.stderr.splitlines()[0].upper()
    assert "Traceback" not in done.stderr and not list(bundle.glob("*.plan"))


@pytest.mark.parametrize("name", ["build.py", "bench.py"])
@pytest.mark.parametrize("damage", ["graph changed", "graph gone", "no description"])
def test_a_damaged_bundle_is_refused(name: str, damage: str, bundle: Path) -> None:
    if damage == "graph changed":
        (bundle / "denoiser.onnx").write_bytes(b"grape")
    else:
        (bundle / ("denoiser.onnx" if damage == "graph gone" else "bundle.json")).unlink()
    done = run(bundle, name)
    assert done.returncode == 2 and "bundle" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["build.py", "--batch", "0"], "--batch"),
        (["build.py", "--batch", "4:2:1"], "--batch"),
        (["build.py", "--batch", "1:2"], "--batch"),
        (["build.py", "--dla", "0", "--batch", "1:2:4"], "one batch size only"),
        (["bench.py", "--batch", "0"], "--batch"),
        (["bench.py", "--steps", "none"], "--steps"),
    ],
    ids=" ".join,
)
def test_arguments_that_mean_nothing_are_refused(arguments: list[str], message: str, bundle: Path) -> None:
    done = run(bundle, *arguments)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_without_a_gpu_the_cuda_runtime_ends_in_one_error() -> None:
    cuda_runtime = program("cuda_runtime")
    if shutil.which("nvidia-smi"):
        pytest.skip("there is a GPU here")
    with pytest.raises(cuda_runtime.CudaError):
        cuda_runtime.CudaRuntime()


def dla(cores: int, core: int) -> SimpleNamespace:
    """The builder configuration after `--dla`, for a network of which the DLA takes the convolution."""
    layers = [SimpleNamespace(name="conv1"), SimpleNamespace(name="silu"), SimpleNamespace(name="attention")]
    network = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)
    config = SimpleNamespace(flags=[], can_run_on_DLA=lambda layer: layer.name == "conv1")
    config.set_flag = config.flags.append
    kinds = SimpleNamespace(DeviceType=SimpleNamespace(DLA="DLA"), BuilderFlag=SimpleNamespace(GPU_FALLBACK="fallback"))
    program("build")._onto_dla(core)(kinds, SimpleNamespace(num_DLA_cores=cores), network, config)
    return config


def test_the_layers_that_the_dla_cannot_run_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    config = dla(cores=2, core=1)
    assert (config.default_device_type, config.DLA_core, config.flags) == ("DLA", 1, ["fallback"])
    printed = capsys.readouterr().err
    assert "1 of 3 layers can run on DLA core 1" in printed
    assert printed.count("on the GPU: ") == 2 and "on the GPU: silu" in printed


def test_a_board_without_that_dla_core_is_the_environment_s_fault(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        dla(cores=0, core=0)
    assert caught.value.code == 3 and "0 DLA cores" in capsys.readouterr().err


def test_inputs_are_noise_and_indices_in_range() -> None:
    content: Any = program("engine")._content
    description = {"num_train_timesteps": 1000, "classes": 3}
    noise = memoryview(content("sample", "f", 500, description)).cast("f").tolist()
    assert abs(sum(noise) / 500) < 0.3 and 0.5 < sum(value * value for value in noise) / 500 < 2
    times = memoryview(content("timestep", "i", 500, description)).cast("i").tolist()
    assert min(times) >= 0 and 500 < max(times) < 1000
    assert set(memoryview(content("label", "q", 500, description)).cast("q").tolist()) == {0, 1, 2}
