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

from ptq_export.engines.cuda.driver import count_gpus, missing_gpu

NAMES = {path.stem for path in PROGRAMS}
# Came after Python 3.8, and would only be missed when it is called.
NEWER = {"removeprefix", "removesuffix", "is_relative_to", "with_stem", "pairwise", "batched", "lcm", "hardlink_to"}
without_tensorrt = pytest.mark.skipif(find_spec("tensorrt") is not None, reason="TensorRT is installed here")
every_program = pytest.mark.parametrize("path", PROGRAMS, ids=lambda path: path.name)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle whose graphs are none."""
    for path in (*PROGRAMS, *FOLDER.glob("*.cpp")):
        shutil.copy(path, tmp_path)
    graphs = []
    for name in ("denoiser.onnx", "baseline.onnx"):
        (tmp_path / name).write_bytes(name.encode())
        graphs.append({"onnx": name, "onnx_sha256": program("device").sha256_file(tmp_path / name)})
    description = graphs[0] | {"baseline": graphs[1] | {"fp16": "graph"}, "batch": [1, 4, 64]}
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
@pytest.mark.parametrize("damage", ["denoiser.onnx changed", "baseline.onnx changed", "baseline.onnx", "bundle.json"])
def test_a_damaged_bundle_is_refused(name: str, damage: str, bundle: Path) -> None:
    file, _, changed = damage.partition(" ")
    (bundle / file).write_bytes(b"other") if changed else (bundle / file).unlink()
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
        (["bench.py", "--rounds", "none"], "--rounds"),
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


class Builder:
    """What `build_plan.main` does for a bundle, and fails to do for the graph called `refused`."""

    def __init__(self, refused: str = "") -> None:
        self.refused = refused
        self.built: list[tuple[str, list[str]]] = []

    def __call__(self, command: list[str], adjust: object) -> int:
        source, _, plan, *rest = command
        self.built.append((Path(source).name, rest))
        if Path(source).name == self.refused:
            return 1
        Path(plan).write_bytes(source.encode())
        return 0


def build(bundle: Path, monkeypatch: pytest.MonkeyPatch, builder: Builder, *arguments: str) -> int:
    """`build.py` with TensorRT 8.5 on an Orin."""
    module = program("build")
    monkeypatch.setattr(module, "HERE", bundle)
    monkeypatch.setattr(module, "_versions", lambda: ("8.5.2", "8.7"))
    monkeypatch.setattr(module.build_plan, "main", builder)
    return int(module.main(["--batch", "1", *arguments]))


def test_both_plans_are_built_each_with_its_identity(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    builder, device = Builder(), program("device")
    assert build(bundle, monkeypatch, builder) == 0
    assert [name for name, _ in builder.built] == ["denoiser.onnx", "baseline.onnx"]
    description = json.loads((bundle / "bundle.json").read_text())
    for plan, graph in (("denoiser.plan", description), ("baseline.plan", description["baseline"])):
        assert device.differences(bundle / plan, device.identity(graph, "8.5.2", "8.7")) == []
        assert device.differences(bundle / plan, device.identity(graph, "10.3", "8.7")) != []
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert printed == json.loads((bundle / "denoiser.identity.json").read_text())


@pytest.mark.parametrize(("fp16", "flags"), [("flag", 1), ("graph", 0)])
def test_only_the_baseline_of_an_old_tensorrt_is_built_by_the_flag(
    fp16: str, flags: int, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = json.loads((bundle / "bundle.json").read_text())
    description["baseline"]["fp16"] = fp16
    (bundle / "bundle.json").write_text(json.dumps(description))
    builder = Builder()
    build(bundle, monkeypatch, builder)
    assert [rest.count("--fp16") for _, rest in builder.built] == [0, flags]


def test_a_dla_is_asked_for_by_flags_first(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder()
    assert build(bundle, monkeypatch, builder, "--dla", "0") == 0
    assert ["--flags-first" in rest for _, rest in builder.built] == [True]


@pytest.mark.parametrize("arguments", [["--no-baseline"], ["--dla", "0"]], ids=" ".join)
def test_the_baseline_can_be_left_out(arguments: list[str], bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builder = Builder()
    assert build(bundle, monkeypatch, builder, *arguments) == 0
    assert [name for name, _ in builder.built] == ["denoiser.onnx"] and not (bundle / "baseline.plan").exists()


def test_a_refused_baseline_leaves_the_int8_plan_and_fails(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build(bundle, monkeypatch, Builder("baseline.onnx")) == 1
    assert "--no-baseline" in capsys.readouterr().err
    assert (bundle / "denoiser.identity.json").is_file() and not (bundle / "baseline.plan").exists()


def bench(bundle: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """`bench.py` with TensorRT 8.5 on an Orin whose int8 step takes 2 ms and whose other step takes 3."""
    module, times_ms = program("bench"), {"denoiser.plan": 2.0, "baseline.plan": 3.0}
    recorded: list[str] = []
    stream = SimpleNamespace(event=object, record=lambda event: None, synchronise=lambda: None, last_ms=0.0)
    stream.compute_capability = lambda: "8.7"
    stream.elapsed_ms = lambda begin, end: stream.last_ms

    def step(trt: object, cuda: object, plan: Path, batch: int, description: dict[str, object]) -> Any:
        class Step:
            def __call__(self) -> None:
                stream.last_ms = times_ms[plan.name]

            def record(self) -> str:
                recorded.append(plan.name)
                return "it allocates" if plan.name == "baseline.plan" else ""

        return Step()

    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(__version__="8.5.2"))
    monkeypatch.setattr(module, "HERE", bundle)
    monkeypatch.setattr(module.cuda_runtime, "CudaRuntime", lambda: stream)
    monkeypatch.setattr(module.engine, "Step", step)
    monkeypatch.setattr(module.power, "find_monitor", lambda interval_ms: (None, "energy was not measured: no rail"))
    return int(module.main(["--plan", str(bundle / "denoiser.plan"), "--json", str(bundle / "bench.json"), *arguments]))


def test_int8_is_timed_against_float16_in_one_report(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build(bundle, monkeypatch, Builder())
    assert bench(bundle, monkeypatch, "--rounds", "40") == 0
    report = json.loads((bundle / "bench.json").read_text())
    assert {name: it["latency_ms"]["gpu"]["median"] for name, it in report["engines"].items()} == {"int8": 2, "fp16": 3}
    assert report["fp16_over_int8"]["gpu"] == {"ratio": 1.5, "low": 1.5, "high": 1.5}
    assert report["fp16_over_int8"]["energy"] is None and "energy was not measured: no rail" in report["warnings"]
    launches = {name: it["launch"] for name, it in report["engines"].items()}
    assert launches == {"int8": "CUDA graph", "fp16": "kernel by kernel"}
    assert "fp16 is no CUDA graph: it allocates" in report["warnings"]
    assert "int8 is 1.50 times as fast as fp16 on the GPU" in capsys.readouterr().out


def test_steps_are_launched_kernel_by_kernel_where_that_is_asked_for(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(bundle, monkeypatch, Builder(), "--no-baseline")
    assert bench(bundle, monkeypatch, "--no-baseline", "--rounds", "2", "--no-graphs") == 0
    assert json.loads((bundle / "bench.json").read_text())["engines"]["int8"]["launch"] == "kernel by kernel"


def step_on(done: list[str], refuse: bool = False) -> Any:
    """An `engine.Step` of a static plan of 8.5, and what was done to get there and is done from there on."""
    engine = program("engine")
    names = ["sample", "eps"]

    def execute(stream: int) -> bool:
        done.append(f"execute on {stream}")
        return not (refuse and "capture" in done)

    def capture(enqueue: Any) -> int:
        done.append("capture")
        enqueue()
        return 5

    context = SimpleNamespace(
        get_tensor_shape=lambda name: (2, 1, 4, 4),
        set_input_shape=lambda name, shape: shape == (2, 1, 4, 4),
        set_tensor_address=lambda name, address: None,
        execute_async_v3=execute,
    )
    plan = SimpleNamespace(
        num_io_tensors=2,
        get_tensor_name=names.__getitem__,
        get_tensor_mode=lambda name: "in" if name == "sample" else "out",
        get_tensor_shape=lambda name: (2, 1, 4, 4),
        get_tensor_dtype=lambda name: "DataType.FLOAT",
        create_execution_context=lambda: context,
    )
    trt = SimpleNamespace(
        __name__="tensorrt",
        __version__="8.5.2",
        Logger=type("Logger", (), {"WARNING": 0, "__init__": lambda self, severity: None}),
        TensorIOMode=SimpleNamespace(INPUT="in"),
        init_libnvinfer_plugins=lambda logger, name: done.append("plugins"),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan_: done.append("load") or plan),
    )
    cuda = SimpleNamespace(stream=7, allocate=lambda size: 1, upload=lambda address, content: None, capture=capture)
    cuda.synchronise, cuda.launch = (lambda: done.append("wait")), (lambda graph: done.append(f"launch {graph}"))
    return engine.Step(trt, cuda, FOLDER / "README.md", 2, {"num_train_timesteps": 10, "inputs": []})


def test_plugins_are_there_before_the_plan_is_loaded_and_a_step_is_warmed_before_it_is_recorded() -> None:
    done: list[str] = []
    step = step_on(done)
    assert step.record() == ""
    step()
    assert done == ["plugins", "load", "execute on 7", "wait", "capture", "execute on 7", "launch 5"]


def test_a_step_that_cannot_be_recorded_says_why_and_is_launched_plainly() -> None:
    done: list[str] = []
    step = step_on(done, refuse=True)
    assert step.record() == "TensorRT could not execute the step"
    with pytest.raises(program("engine").EngineError):
        step()
    assert "launch 5" not in done and done[-1] == "execute on 7"


def test_a_static_plan_serves_its_batch_alone() -> None:
    engine = program("engine")
    plan = SimpleNamespace(get_tensor_shape=lambda name: (2, 1, 4, 4))
    step = engine.Step.__new__(engine.Step)
    step._engine, step._context = plan, SimpleNamespace(set_input_shape=lambda name, shape: True)
    step._shape_input("sample", 2)
    with pytest.raises(engine.EngineError, match="takes batches 2 to 2, not 4"):
        step._shape_input("sample", 4)


@pytest.mark.gpu
@pytest.mark.skipif(count_gpus() == 0, reason=missing_gpu())
def test_the_runtime_by_ctypes_records_launches_and_survives_what_cannot_be_recorded() -> None:
    cuda_runtime = program("cuda_runtime")
    cuda = cuda_runtime.CudaRuntime()
    begin, end = cuda.event(), cuda.event()
    cuda.record(begin)
    cuda.launch(cuda.capture(lambda: None))
    with pytest.raises(cuda_runtime.CudaError, match="cudaStreamSynchronize"):
        cuda.capture(cuda.synchronise)
    cuda.record(end)
    cuda.synchronise()
    assert 0 <= cuda.elapsed_ms(begin, end) < 1000


def test_int8_can_be_timed_alone(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(bundle, monkeypatch, Builder(), "--no-baseline")
    assert bench(bundle, monkeypatch, "--no-baseline", "--rounds", "2") == 0
    report = json.loads((bundle / "bench.json").read_text())
    assert list(report["engines"]) == ["int8"] and report["fp16_over_int8"] is None


def test_an_absent_or_foreign_baseline_is_refused_with_the_remedy(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    build(bundle, monkeypatch, Builder(), "--no-baseline")
    assert bench(bundle, monkeypatch) == 3
    assert "baseline.plan is not there" in capsys.readouterr().err
    build(bundle, monkeypatch, Builder())
    (bundle / "baseline.plan").write_bytes(b"another's")
    assert bench(bundle, monkeypatch) == 3
    assert "baseline.plan is damaged" in (said := capsys.readouterr().err) and "--no-baseline" in said
    assert not (bundle / "bench.json").exists()


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
    inputs = [{"name": "timestep", "dtype": "int64", "limit": None}, {"name": "label", "dtype": "int64", "limit": 3}]
    description = {"num_train_timesteps": 1000, "inputs": inputs}
    noise = memoryview(content("sample", "f", 500, description)).cast("f").tolist()
    assert abs(sum(noise) / 500) < 0.3 and 0.5 < sum(value * value for value in noise) / 500 < 2
    times = memoryview(content("timestep", "i", 500, description)).cast("i").tolist()
    assert min(times) >= 0 and 500 < max(times) < 1000
    assert set(memoryview(content("label", "q", 500, description)).cast("q").tolist()) == {0, 1, 2}
