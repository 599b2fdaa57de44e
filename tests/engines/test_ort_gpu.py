"""ONNX Runtime's GPU providers: refused where they cannot be loaded, never replaced by the CPU in silence."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from exported_net import inputs_of

from ptq_export.engines import availability, build_engine
from ptq_export.engines.base import EngineOptions, Signature
from ptq_export.engines.build_cache import read_identity, write_identity
from ptq_export.engines.exported_layers import LayerRecord, asked_layers
from ptq_export.engines.ort.gpu import engine as ort_gpu
from ptq_export.engines.ort.gpu import tensors as ort_tensors
from ptq_export.engines.ort.gpu.engine import RECORD, OrtCudaEngine, OrtTrtEngine, taken_layers, tensorrt_options
from ptq_export.engines.ort.gpu.providers import CUDA, TENSORRT, provider_error, tensorrt_version
from ptq_export.engines.ort.session import CPU, Level, Provider, SessionEngine, open_session, session_settings
from ptq_export.engines.trt.options import TrtOptions
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.interface import label
from ptq_export.targets import find_target

Write = Callable[..., Path]
open_trt = OrtTrtEngine._open
KINDS = {"ort-trt": TENSORRT, "ort-cuda": CUDA}
SAMPLE = np.random.default_rng(1).standard_normal((3, 2, 4, 4)).astype(np.float32)
TIMESTEP = np.array([0, 9, 4])
ONE, TRT = EngineOptions(threads=1), TrtOptions(threads=1)
cpu_build = pytest.mark.skipif(CUDA in onnxruntime.get_available_providers(), reason="onnxruntime-gpu is installed")


def needs(provider: str) -> pytest.MarkDecorator:
    missing = provider_error(provider)
    return pytest.mark.skipif(missing is not None, reason=missing.cause if missing else "")


@cpu_build
@pytest.mark.parametrize("kind", KINDS)
def test_the_package_for_the_cpu_is_refused_with_the_remedy(kind: str, denoiser_onnx: Write, tmp_path: Path) -> None:
    available, missing = availability(kind)
    assert not available and f"no {KINDS[kind]}" in missing and "onnxruntime-gpu" in missing
    with pytest.raises(EnvironmentMissing, match="pip uninstall onnxruntime") as caught:
        build_engine(kind, denoiser_onnx(), tmp_path / "engine", ONE)
    assert caught.value.exit_code == 3 and not (tmp_path / "engine").exists()


@cpu_build
@pytest.mark.filterwarnings("ignore:Specified provider")
@pytest.mark.parametrize("provider", KINDS.values())
def test_a_session_never_falls_back_to_the_cpu(provider: str, denoiser_onnx: Write) -> None:
    settings = session_settings(1, Level.ORT_DISABLE_ALL)
    with pytest.raises(EnvironmentMissing, match=f"{provider} and would have run .* on CPUExecutionProvider"):
        open_session(denoiser_onnx(), settings, [(provider, {}), CPU])


def test_ort_cuda_int8_is_refused_with_the_reason_and_what_to_take() -> None:
    with pytest.raises(InputError, match=r"no int8 convolution(.|\n)*trt-int8, or ort-trt-int8"):
        find_target("ort-cuda-int8")


def test_tensorrt_is_given_a_profile_and_no_precision() -> None:
    options = tensorrt_options(
        Signature(inputs_of((3, 32, 32), label(10)), 3, None, 1000), (1, 4, 64), TrtOptions(workspace_mib=2)
    )
    assert options == {
        "trt_profile_min_shapes": "sample:1x3x32x32,timestep:1,label:1",
        "trt_profile_opt_shapes": "sample:4x3x32x32,timestep:4,label:4",
        "trt_profile_max_shapes": "sample:64x3x32x32,timestep:64,label:64",
        "trt_max_workspace_size": "2097152",
    }


@cpu_build
def test_without_the_provider_tensorrt_s_version_is_unknown() -> None:
    assert tensorrt_version() == "unknown"


@pytest.fixture
def ort_trt(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """OrtTrtEngine on the CPU, without a GPU; the names of the models that it opens."""
    opened: list[str] = []

    def open_on_cpu(
        engine: OrtTrtEngine, model: Path, dump: bool = False, on: object = None, graph: bool = False
    ) -> onnxruntime.InferenceSession:
        opened.append(model.name)
        if dump:
            engine.context_path.write_bytes(model.read_bytes())
        return open_session(model, session_settings(1, Level.ORT_DISABLE_ALL), [CPU])

    monkeypatch.setattr(ort_gpu, "_require", lambda provider: None)
    monkeypatch.setattr(ort_gpu, "_device", lambda: "GPU")
    monkeypatch.setattr(OrtTrtEngine, "_open", open_on_cpu)
    return opened


def test_a_context_model_that_does_not_load_is_built_again(
    ort_trt: list[str], denoiser_onnx: Write, tmp_path: Path
) -> None:
    source = denoiser_onnx()
    first = OrtTrtEngine(source, tmp_path / "engine", ONE)
    OrtTrtEngine(source, tmp_path / "engine", ONE)
    context = first.context_path
    assert ort_trt == [source.name, context.name]
    context.write_bytes(b"not a model")
    write_identity(context, read_identity(context)[0])
    assert OrtTrtEngine(source, tmp_path / "engine", ONE)(SAMPLE, TIMESTEP).shape == SAMPLE.shape
    assert ort_trt[2:] == [context.name, source.name] and context.read_bytes() == source.read_bytes()


def test_the_workspace_and_tensorrt_s_version_are_part_of_the_identity(
    ort_trt: list[str], denoiser_onnx: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rebuilt(options: TrtOptions) -> bool:
        ort_trt.clear()
        return OrtTrtEngine(denoiser_onnx(), tmp_path / "engine", options).context_path.name not in ort_trt

    assert rebuilt(TRT) and not rebuilt(TRT)
    assert rebuilt(replace(TRT, workspace_mib=64)) and not rebuilt(replace(TRT, workspace_mib=64))
    monkeypatch.setattr(ort_gpu, "tensorrt_version", lambda: "101200")
    assert rebuilt(replace(TRT, workspace_mib=64))


@pytest.mark.usefixtures("ort_trt")
def test_any_number_of_samples_is_computed_in_the_engine_s_batches(
    denoiser_onnx: Write, reference: Callable[..., np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = OrtTrtEngine(denoiser_onnx(), tmp_path / "engine", TrtOptions(threads=1, batches=(2, 2, 2)))
    sizes: list[int] = []
    run = SessionEngine.run
    monkeypatch.setattr(
        SessionEngine, "run", lambda self, *values: (sizes.append(len(values[0])), run(self, *values))[1]
    )
    for count in (1, 2, 3):
        found = engine(SAMPLE[:count], TIMESTEP[:count])
        np.testing.assert_allclose(found, reference(SAMPLE[:count], TIMESTEP[:count]), rtol=1e-4, atol=1e-5)
    assert sizes == [2, 2, 2, 2]


def test_the_engine_times_the_step_that_it_was_given(
    ort_trt: list[str], denoiser_onnx: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[tuple[int, ...], bool]] = []
    opened: list[onnxruntime.InferenceSession] = []

    class Model:
        def __init__(self, open_session: Callable[[int, bool], onnxruntime.InferenceSession]) -> None:
            opened.append(open_session(7, True))

        def timed_step(self, feeds: dict[str, np.ndarray], output: str, shape: tuple[int, ...], graph: bool) -> object:
            made.append((shape, graph))
            assert list(feeds) == ["sample", "timestep"] and output == "eps" and len(feeds["timestep"]) == shape[0]
            return made

    free = iter((100, 60))
    monkeypatch.setattr(ort_tensors, "BoundModel", Model)
    monkeypatch.setattr(ort_tensors, "free_bytes", lambda: next(free))
    engine = OrtTrtEngine(denoiser_onnx(), tmp_path / "engine", TrtOptions(threads=1, batches=(2, 2, 4)))
    assert engine.timed_step(True, {"sample": SAMPLE, "timestep": TIMESTEP}) is made and engine.gpu_bytes == 40
    assert made == [((2, 2, 4, 4), False), ((3, 2, 4, 4), True)], "once with the least batch, then what was asked for"
    assert len(opened) == 1 and ort_trt[-1] == engine.context_path.name


@pytest.mark.parametrize("graph", [False, True], ids=["kernels", "graph"])
def test_every_gpu_provider_is_given_the_stream_and_the_first_one_the_graph(
    ort_trt: list[str], denoiser_onnx: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, graph: bool
) -> None:
    given: list[list[Provider]] = []

    def keep(model: Path, settings: object, providers: Sequence[Provider]) -> None:
        given.append(list(providers))

    trt = OrtTrtEngine(denoiser_onnx(), tmp_path / "engine", ONE)
    monkeypatch.setattr(OrtTrtEngine, "_open", open_trt)
    monkeypatch.setattr(OrtCudaEngine, "providers", (CPU,))
    cuda = OrtCudaEngine(denoiser_onnx(), tmp_path / "engine", ONE)
    monkeypatch.setattr(ort_gpu, "open_session", keep)
    for engine in (trt, cuda):
        engine._open_on(7, graph)
    (first, second, last), (only, behind) = given
    assert [name for name, _ in (first, second, last, only, behind)] == [TENSORRT, CUDA, CPU[0], CUDA, CPU[0]]
    assert all(options["user_compute_stream"] == "7" for _, options in (first, second, only))
    assert first[1].get("trt_cuda_graph_enable", "0") == only[1]["enable_cuda_graph"] == str(int(graph))
    assert "enable_cuda_graph" not in second[1] and first[1]["trt_profile_max_shapes"] == "sample:64x2x4x4,timestep:64"


def test_a_layer_counts_as_int8_only_where_the_provider_took_it(denoiser_onnx: Write) -> None:
    settings = session_settings(1, Level.ORT_DISABLE_ALL)
    settings.add_session_config_entry(RECORD, "1")
    source = denoiser_onnx()
    session = open_session(source, settings, [CPU])
    asked = [LayerRecord("stem", "Conv", "", "int8", "int8", "")]
    (taken,) = taken_layers(asked, session, CPU[0])
    assert (taken.precision, taken.executed) == ("int8", CPU[0]) and "asks for int8" in taken.reason
    (left,) = taken_layers(asked, session, TENSORRT)
    assert left.precision == "float" and left.reason == f"{TENSORRT} left it to {CPU[0]}"
    (float_one,) = taken_layers(asked_layers(source, {}), session, CPU[0])
    assert (float_one.precision, float_one.reason) == ("float", "kept float")


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=needs(name)) for kind, name in KINDS.items()])
def test_the_gpu_computes_what_the_graph_says(
    kind: str, denoiser_onnx: Write, reference: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    engine = build_engine(kind, denoiser_onnx(), tmp_path / "engine", ONE)
    np.testing.assert_allclose(engine(SAMPLE, TIMESTEP), reference(SAMPLE, TIMESTEP), rtol=5e-3, atol=5e-3)
    assert [record.name for record in engine.executed_layers({})] == ["stem"]


@pytest.mark.gpu
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=needs(name)) for kind, name in KINDS.items()])
def test_the_second_start_takes_what_the_first_has_built(
    kind: str, denoiser_onnx: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = denoiser_onnx()
    first = build_engine(kind, source, tmp_path / "engine", ONE)(SAMPLE, TIMESTEP)
    with caplog.at_level(logging.INFO, logger="ptq_export"):
        second = build_engine(kind, source, tmp_path / "engine", ONE)(SAMPLE, TIMESTEP)
    assert caplog.messages == [] and np.array_equal(first, second)


@pytest.mark.gpu
@pytest.mark.parametrize("graphs", [False, True], ids=["kernels", "graph"])
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=needs(name)) for kind, name in KINDS.items()])
def test_cuda_tensors_stay_on_the_device_and_give_what_arrays_give(
    kind: str, graphs: bool, denoiser_onnx: Write, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    options = replace(ONE, cuda_graphs=graphs, batches=(1, 2, 2) if kind == "ort-trt" else None)
    engine = build_engine(kind, denoiser_onnx(), tmp_path / "engine", options)
    assert engine._bound.follows, "the provider did not take our stream"
    sample, timestep = torch.from_numpy(SAMPLE).cuda(), torch.from_numpy(TIMESTEP).cuda()
    with torch.cuda.stream(torch.cuda.Stream()):
        for shift in (0.0, 1.0):
            found = engine(sample + shift, timestep) * 1.0
            assert found.is_cuda
            np.testing.assert_allclose(found.cpu().numpy(), engine(SAMPLE + shift, TIMESTEP), rtol=5e-3, atol=5e-3)


@pytest.mark.gpu
@pytest.mark.parametrize("graph", [False, True], ids=["kernels", "graph"])
@pytest.mark.parametrize("kind", [pytest.param(kind, marks=needs(name)) for kind, name in KINDS.items()])
def test_a_step_on_the_gpu_is_timed_by_events(kind: str, graph: bool, denoiser_onnx: Write, tmp_path: Path) -> None:
    engine = build_engine(kind, denoiser_onnx(), tmp_path / "engine", ONE)
    timing = engine.timed_step(graph, {"sample": SAMPLE, "timestep": TIMESTEP})()
    assert timing.by_events and timing.compute_ms > 0 and timing.recorded == graph and engine.gpu_bytes >= 0
