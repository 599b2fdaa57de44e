"""TensorRT engines: what can be tried without a GPU is; the rest runs wherever there is one."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from convolutions import SIZE, Stack, quantised
from exported_net import exported

from ptq_export.engines import EngineOptions, availability, build_engine
from ptq_export.engines.cuda.driver import count_gpus
from ptq_export.engines.trt.callbacks import messages_to, profiler_of
from ptq_export.engines.trt.engine import TrtEngine, TrtRtxEngine, of_fixed_shapes
from ptq_export.engines.trt.options import TrtOptions
from ptq_export.engines.trt.plan import RTX
from ptq_export.engines.trt.session import Session
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.graph.model_file import save_model
from ptq_export.graph.passes.half_precision import HalfPrecision
from ptq_export.graph.passes.name_layers import NameLayers
from ptq_export.nn.scheme import TENSORRT

WIDTH = 32
KINDS = [kind for kind in ("trt", "trt-rtx") if availability(kind)[0]]
with_rtx = pytest.mark.skipif(find_spec(RTX) is None, reason="TensorRT for RTX has no package for this platform")
on_gpu = pytest.mark.parametrize("kind", KINDS or [pytest.param("", marks=pytest.mark.skip("no TensorRT with a GPU"))])
LAYERS = {f"layers.{index}": "int8" for index in range(4)}


def write(folder: Path, int8: bool = True) -> Path:
    graph = exported(quantised(Stack(WIDTH), TENSORRT) if int8 else Stack(WIDTH), (WIDTH, SIZE, SIZE))
    NameLayers()(graph)
    path = folder / f"denoiser.{'int8' if int8 else 'fp32'}.onnx"
    save_model(HalfPrecision()(graph).model if int8 else graph, path)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("trt"))


def noise(batch: int) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, WIDTH, SIZE, SIZE)).astype(np.float32)


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    """Within what float16 between integers moves, by SQNR of 35 dB."""
    error = np.mean((np.asarray(found) - wanted) ** 2)
    return bool(np.mean(wanted**2) > 10**3.5 * error)


@pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU here")
@pytest.mark.parametrize("engine", [TrtEngine, TrtRtxEngine])
def test_without_a_gpu_tensorrt_is_not_touched(engine: type[TrtEngine], source: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentMissing, match="driver"):
        engine(source, tmp_path / "engine")
    assert not (tmp_path / "engine").exists()


def test_a_source_that_is_not_the_manifest_s_is_refused_first(source: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is damaged"):
        TrtEngine(source, tmp_path / "engine", None, "ab" * 32)


@with_rtx
def test_a_plan_that_cannot_be_loaded_ends_in_tensorrt_s_words() -> None:
    with pytest.raises(EnvironmentMissing, match=r"net\.plan cannot be loaded: .*bufferSize") as caught:
        Session(import_module(RTX), "net.plan", b"abc")
    assert caught.value.exit_code == 3


@with_rtx
def test_errors_of_tensorrt_are_kept(caplog: pytest.LogCaptureFixture) -> None:
    trt = import_module(RTX)
    heard: list[str] = []
    log = messages_to(trt, heard)
    for severity in (trt.ILogger.ERROR, trt.ILogger.INFO):
        log.log(severity, f"{severity}")
    assert heard == [f"{trt.ILogger.ERROR}"]
    assert [record.levelname for record in caplog.records] == ["ERROR"]


@with_rtx
def test_the_times_of_layers_are_collected() -> None:
    times_ms: dict[str, list[float]] = {"a": [], "b": []}
    profiler = profiler_of(import_module(RTX), times_ms)
    for name, ms in (("a", 1.0), ("b", 2.0), ("a", 3.0)):
        profiler.report_layer_time(name, ms)
    assert times_ms == {"a": [1.0, 3.0], "b": [2.0]}


def test_a_part_of_the_graph_is_built_for_the_shapes_at_hand(source: Path) -> None:
    inputs = {"sample": noise(3), "timestep": np.zeros(3, np.int64)}
    loaded = onnx.load_from_string(of_fixed_shapes(source.read_bytes(), inputs))
    sizes = [[size.dim_value for size in value.type.tensor_type.shape.dim] for value in loaded.graph.input]
    assert sizes == [[3, WIDTH, SIZE, SIZE], [3]]


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("graphs", [False, True], ids=["kernel by kernel", "CUDA graph"])
def test_the_engine_computes_what_onnx_runtime_computes(kind: str, graphs: bool, source: Path, tmp_path: Path) -> None:
    engine = build_engine(kind, source, tmp_path / "engine", TrtOptions(batches=(2, 2, 4), cuda_graphs=graphs))
    reference = build_engine("ort", source, tmp_path / "ort")
    for batch in (1, 4, 1, 7, 7, 2):  # 7: in two parts of 4
        wanted = reference(noise(batch), 500)
        assert close(engine(noise(batch), 500), wanted) and close(engine(noise(batch), 500), wanted)
    assert engine.gpu_bytes > 0


@pytest.mark.gpu
@on_gpu
def test_a_finished_plan_is_loaded_and_not_built(kind: str, source: Path, tmp_path: Path) -> None:
    options = EngineOptions(batch=2)
    first = build_engine(kind, source, tmp_path / "engine", options)
    built = first.plan_path.stat().st_mtime_ns
    assert build_engine(kind, source, tmp_path / "engine", options).plan_path.stat().st_mtime_ns == built


@pytest.mark.gpu
@on_gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch was built without CUDA")
@pytest.mark.parametrize("graphs", [False, True], ids=["kernel by kernel", "CUDA graph"])
def test_cuda_tensors_stay_on_the_device_and_on_the_caller_s_stream(
    kind: str, graphs: bool, source: Path, tmp_path: Path
) -> None:
    engine = build_engine(kind, source, tmp_path / "engine", TrtOptions(batches=(1, 2, 4), cuda_graphs=graphs))
    wanted = engine(noise(6), np.arange(6))
    sample, timestep = torch.from_numpy(noise(6)).cuda(), torch.arange(6).cuda()
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        stream.wait_stream(torch.cuda.default_stream())
        with torch.cuda.stream(stream):
            found = engine(sample, timestep)
        stream.synchronize()
        assert found.is_cuda and close(found.cpu().numpy(), wanted)
    assert close(engine(sample, 3).cpu().numpy(), engine(noise(6), 3))
    with pytest.raises(InputError, match="sample"):
        engine(sample.half(), timestep)


@pytest.mark.gpu
@on_gpu
def test_every_layer_runs_int8_and_takes_time(kind: str, source: Path, tmp_path: Path) -> None:
    engine = build_engine(kind, source, tmp_path / "engine", EngineOptions(batch=4))
    records = engine.executed_layers(LAYERS)
    assert [(record.name, record.precision) for record in records] == [(name, "int8") for name in LAYERS]
    times_ms = engine.layer_times_ms({"sample": noise(4), "timestep": np.zeros(4, np.int64)})
    assert set(times_ms) == set(LAYERS) and all(ms > 0 for ms in times_ms.values())
    assert close(engine(noise(4), 500), build_engine("ort", source, tmp_path / "ort")(noise(4), 500))


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("graph", [False, True])
def test_a_step_is_timed_on_the_device(kind: str, graph: bool, source: Path, tmp_path: Path) -> None:
    engine = build_engine(kind, source, tmp_path / "engine", EngineOptions(batch=4))
    step = engine.timed_step(graph, {"sample": noise(4), "timestep": np.zeros(4, np.int64)})
    timings = [step() for _ in range(5)]
    assert all(timing.recorded == graph for timing in timings)
    assert all(0 < timing.compute_ms < 1e3 and 0 < timing.enqueue_ms < 1e4 for timing in timings)


@pytest.mark.gpu
@on_gpu
def test_a_float32_graph_runs_alone_for_a_proof(kind: str, tmp_path: Path) -> None:
    source = write(tmp_path, int8=False)
    inputs = {"sample": noise(3), "timestep": np.arange(3)}
    engine = TrtEngine if kind == "trt" else TrtRtxEngine
    found = engine.run_graph(source.read_bytes(), inputs)
    assert found.dtype == np.float32 and close(found, build_engine("ort", source, tmp_path / "ort")(*inputs.values()))
