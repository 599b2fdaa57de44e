"""The main job where a GPU is: no GPU is needed to try the order of things, so ONNX Runtime plays TensorRT's part."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx
import pytest
import tiny
import torch

from ptq_export.calibrators.quantise import quantised_grids
from ptq_export.engines import RUNTIMES
from ptq_export.engines.base import DeviceTiming, Engine, EngineOptions, GpuEngine
from ptq_export.engines.cuda.driver import Gpu
from ptq_export.engines.exported_layers import LayerRecord, asked_layers
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.engines.ort.options import OrtOptions
from ptq_export.engines.trt import checks
from ptq_export.engines.trt.options import TrtOptions
from ptq_export.engines.trt.plan import RTX
from ptq_export.engines.trt.rtx_gpu import missing_rtx_gpu
from ptq_export.engines.trt.runtime import TrtRtxRuntime
from ptq_export.errors import GateFailed, InputError
from ptq_export.nn.scheme import PLACEMENTS
from ptq_export.pipeline import bench, latency, load_engine, run, verify
from ptq_export.pipeline.commands.reopened import reopen, simulate
from ptq_export.pipeline.progress import SILENT
from ptq_export.pipeline.run import prepare
from ptq_export.pipeline.stages import calibration_pairs
from ptq_export.pipeline.tuning import tune
from ptq_export.pipeline.tuning.race import Candidate, Choice
from ptq_export.pipeline.tuning.workbench import JobBench

pytestmark = pytest.mark.skipif(find_spec(RTX) is None, reason="TensorRT for RTX has no package for this platform")
OPTIONS = {"target": "trt-rtx-int8", "rounding": "nearest", "samples": 8, "held_out": 16, "rounds": 10, "seconds": 0.0}

AS_REGISTERED = RUNTIMES["trt-rtx"]


@dataclass(frozen=True, kw_only=True)
class UnderstudyOptions(OrtOptions, TrtOptions):
    """ONNX Runtime's, and TensorRT's."""


class Understudy(OrtEngine, GpuEngine):
    """ONNX Runtime behind the interface of a GPU's engine; it takes the graph's word for the layers' precision."""

    options_type = UnderstudyOptions
    gpu_bytes = 12_000_000
    built: ClassVar[list[tuple[str, int | None]]] = []

    def __init__(
        self, source: Path, cache: Path, options: EngineOptions | None = None, sha256: str | None = None
    ) -> None:
        super().__init__(source, cache, options, sha256)
        self.built.append((source.name, self.options.batch))

    def executed_layers(self, expected: Mapping[str, str]) -> list[LayerRecord]:
        return asked_layers(self.source, expected)

    def layer_times_ms(self, feeds: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {record.name: 0.1 for record in asked_layers(self.source, {})}

    def run_tensors(self, feeds: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return torch.from_numpy(self.run({name: value.numpy() for name, value in feeds.items()}))

    def timed_step(self, graph: bool, feeds: Mapping[str, np.ndarray]) -> Callable[[], DeviceTiming]:
        def step() -> DeviceTiming:
            started = time.perf_counter()
            self.run(feeds)
            return DeviceTiming(1e3 * (time.perf_counter() - started), 0.01 if graph else 1e4, graph)

        return step

    def step_loop(self, graph: bool, feeds: Mapping[str, np.ndarray]) -> Callable[[int], None]:
        return lambda count: [self.run(feeds) for _ in range(count)] and None


@dataclass(frozen=True)
class Played(TrtRtxRuntime):
    """TensorRT for RTX, as if a GPU were here."""

    options: ClassVar[type[UnderstudyOptions]] = UnderstudyOptions

    def engine(self) -> type[Engine]:
        return Understudy

    def missing_beside(self, options: EngineOptions | None) -> None:
        return None


PLAYED = Played("trt-rtx", (RTX,), RTX, (), own=RTX)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of target trt-rtx-int8 with everything that a GPU adds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RUNTIMES, "trt-rtx", PLAYED)
        patch.setattr(latency, "describe_gpu", lambda: Gpu("NVIDIA Understudy", (8, 9), "13.0", "0000:00:00.0"))
        patch.setattr(latency, "GPU_BATCHES", (1, 2))
        yield run(replace(tiny.options(tmp_path_factory.mktemp("runs") / "gpu"), **OPTIONS))


def read(path: Path) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(path.read_text())
    return value


def test_the_engine_s_own_layers_are_read_and_timed(finished: Path) -> None:
    layers = read(finished / "layers.json")
    assert layers["read_from"] == "engine"
    assert all(row["ms"] == row["float_ms"] == 0.1 for row in layers["layers"])


def test_int8_is_timed_against_float16_in_the_same_rounds(finished: Path) -> None:
    found = read(finished / "latency.json")
    assert [step["batch"] for step in found["steps"]] == [step["batch"] for step in found["gpu"]] == [1, 2]
    for step, gpu in zip(found["steps"], found["gpu"], strict=True):
        assert list(step["candidates"]) == list(gpu["candidates"]) == ["trt-rtx-int8", "trt-rtx-fp16"]
        assert list(step["speedup"]) == ["trt-rtx-fp16"]
        for timing in gpu["candidates"].values():
            assert "host-bound" in timing["kernels"]["warnings"] and timing["energy_mj"] is None
    assert found["environment"]["gpu"] == "NVIDIA Understudy, sm89, driver for CUDA 13.0"
    assert found["peak_memory_bytes"] == dict.fromkeys(("trt-rtx-int8", "trt-rtx-fp16"), 12_000_000)
    assert len(found["loops"]) == 2


def test_the_report_and_the_verdict_name_the_baseline(finished: Path) -> None:
    verdict = read(finished / "manifest.json")["verdict"]
    assert verdict["ok"] and verdict["baseline"] == "trt-rtx-fp16" and verdict["speedup"] > 0
    assert verdict["batch"] == read(finished / "latency.json")["judged_batch"] == 1
    page = (finished / "report.html").read_text()
    assert "On the GPU, medians" in page and "host-bound" in page and "RTX FP16" in page


def test_the_float16_graph_is_an_artefact_with_float_ends(finished: Path) -> None:
    assert "denoiser.fp16.onnx" in read(finished / "manifest.json")["artefacts"]
    graph = onnx.load(finished / "denoiser.fp16.onnx").graph
    kinds = {value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.output)}
    assert kinds == {
        "sample": onnx.TensorProto.FLOAT,
        "timestep": onnx.TensorProto.INT64,
        "eps": onnx.TensorProto.FLOAT,
    }
    weights = {tensor.name: tensor for tensor in graph.initializer}
    convs = [node for node in graph.node if node.op_type == "Conv"]
    assert all(weights[node.input[1]].data_type == onnx.TensorProto.FLOAT16 for node in convs)


def test_a_finished_run_is_timed_and_verified_again(finished: Path) -> None:
    assert verify(finished, SILENT, tiny.SPEC)["parity"] > 20
    Understudy.built.clear()
    assert [step["batch"] for step in bench(finished, SILENT)["gpu"]] == [1, 2]
    files = ("denoiser.trt-rtx-int8.onnx", "denoiser.fp16.onnx")
    assert Understudy.built[-4:] == [(name, batch) for batch in (1, 2) for name in files], "each for one batch alone"


def test_a_graph_that_the_builder_refuses_fails_with_its_words_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise GateFailed("tensorrt_rtx refuses it: no kernel")

    monkeypatch.setitem(RUNTIMES, "trt-rtx", PLAYED)
    monkeypatch.setattr(checks, "make_plan", refuse)
    with pytest.raises(GateFailed, match="no kernel"):
        run(replace(tiny.options(tmp_path / "gpu"), **OPTIONS))
    assert read(tmp_path / "gpu" / "layers.json")["read_from"] == "graph"
    assert "no kernel" in (tmp_path / "gpu" / "report.html").read_text()


@pytest.mark.skipif(missing_rtx_gpu() is None, reason="there is a GPU here")
def test_a_run_finished_without_a_gpu_is_timed_where_one_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RUNTIMES, "trt-rtx", AS_REGISTERED)
    folder = run(replace(tiny.options(tmp_path / "rtx"), **OPTIONS, batch="1:2:4", builder_level=1))
    assert read(folder / "manifest.json")["verdict"]["speedup"] is None
    monkeypatch.setitem(RUNTIMES, "trt-rtx", PLAYED)
    monkeypatch.setattr(latency, "describe_gpu", lambda: Gpu("NVIDIA Understudy", (8, 9), "13.0", "0000:00:00.0"))
    options = load_engine(folder).options
    assert (options.batch, options.batches, options.builder_level) == (None, (1, 2, 4), 1)
    assert [step["batch"] for step in bench(folder, SILENT)["steps"]] == [1, 2, 4]
    verdict = read(folder / "manifest.json")["verdict"]
    assert (verdict["baseline"], verdict["batch"]) == ("trt-rtx-fp16", 2) and verdict["speedup"] > 0
    assert "per step of batch 2 than TensorRT RTX FP16" in (folder / "report.html").read_text()


def resizes(path: Path) -> list[tuple[str, list[str]]]:
    """Of every Resize: what makes its input, and what reads its result."""
    nodes = onnx.load(path).graph.node
    makers = {name: node.op_type for node in nodes for name in node.output}
    return [
        (makers[node.input[0]], [reader.op_type for reader in nodes if node.output[0] in reader.input])
        for node in nodes
        if node.op_type == "Resize"
    ]


def test_placements_are_in_the_graph_the_builder_takes_it_and_every_proof_holds(tmp_path: Path) -> None:
    asked = replace(tiny.options(tmp_path / "placed"), **OPTIONS, placement=",".join(PLACEMENTS), check="rtx")
    folder = run(asked)
    assert resizes(folder / "denoiser.trt-rtx-int8.onnx") == [("DequantizeLinear", ["QuantizeLinear"])]
    rows = {row["name"]: row for row in read(folder / "layers.json")["layers"]}
    shortcuts = [row for name, row in rows.items() if ".conv_shortcut" in name]
    assert shortcuts and all("float-shortcuts" in row["reason"] and row["precision"] == "float" for row in shortcuts)
    manifest, checked = read(folder / "manifest.json"), read(folder / "tensorrt.json")
    assert manifest["verdict"]["ok"]
    assert all(manifest["scheme"][name.replace("-", "_")] is True for name in PLACEMENTS)
    assert len(rows) == 29, "grids are no layers"
    weights = checked["plans"][RTX]["weights"]
    assert weights["as_int8"] == weights["count"] > 0
    assert checked["findings"] == []
    assert verify(folder, SILENT, tiny.SPEC)["parity"] > 20
    with reopen(folder, SILENT, tiny.SPEC) as job:
        assert len(quantised_grids(simulate(job))) == 16, "restored, two in each of eight residual blocks"
    with pytest.raises(InputError, match=r"other options \(placement: .*, 'residual' now\)"):
        run(replace(asked, placement="residual"))


@pytest.mark.slow
def test_the_bench_builds_each_choice_with_its_grids_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One quantisation serves all choices: grids are taken out of its graph, and out of what is weighed."""
    monkeypatch.setitem(RUNTIMES, "trt-rtx", PLAYED)
    options = replace(tiny.options(tmp_path / "bench"), **OPTIONS).resolved()
    start = Choice(split_shortcut=False)
    with prepare(options, SILENT) as job, JobBench(job, calibration_pairs(job)) as bench:
        counts, quality_db = {}, {}
        for placement in (None, "residual", "conv1-output"):
            toggled = start if placement is None else bench.changed(start, Candidate("", frozenset(), 0.0, placement))
            assert toggled is not None and toggled.placements == {placement} - {None}
            nodes = onnx.load(bench.engine(toggled).source).graph.node
            counts[placement] = sum(node.op_type == "QuantizeLinear" for node in nodes)
            quality_db[placement] = bench.sqnr_db(toggled)
        assert counts == {None: 24, "residual": 32, "conv1-output": 32}, "eight residual blocks"
        assert max(quality_db["residual"], quality_db["conv1-output"]) < quality_db[None]
        assert bench.variant(start).subject is not job.subject, "the job's own has no places for grids"


@pytest.mark.slow
def test_tuning_races_placements_by_the_gpu_s_clock_on_engines_of_one_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setitem(RUNTIMES, "trt-rtx", PLAYED)
    for module in (latency, tune):
        monkeypatch.setattr(module, "describe_gpu", lambda: Gpu("NVIDIA Understudy", (8, 9), "13.0", "0000:00:00.0"))
    monkeypatch.setattr(latency, "GPU_BATCHES", (4,))
    Understudy.built.clear()
    folder = run(replace(tiny.options(tmp_path / "tuned"), **OPTIONS, tune=20.0))
    value = read(folder / "tuning.json")
    tried = {row["what"] for row in value["trials"] + value["not_reached"]}
    asked = {"quantisers before upsamplings, too", "int8 operands of residual sums"}
    assert asked | {"int8 results of first convolutions"} <= tried and value["batch"] == 4
    assert tried & {"shortcuts of residual blocks", "1x1 convolutions"}, "which are the same layers here"
    assert {batch for name, batch in Understudy.built if name == "choice.onnx"} == {4}
    before = "before-resize" in value["chosen"]["placements"]
    maker = "DequantizeLinear" if before else resizes(folder / "denoiser.fp16.onnx")[0][0]
    assert resizes(folder / "denoiser.trt-rtx-int8.onnx")[0][0] == maker
    assert read(folder / "manifest.json")["verdict"]["ok"]
