"""What depends on the version of TensorRT, in one table; how the builder is told is tried on TensorRT for RTX."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from convolutions import SIZE, Stack, quantised
from exported_net import exported

from ptq_export.engines.trt import build_plan
from ptq_export.engines.trt.build_plan import RTX, Typing, timing_cache_file, typings
from ptq_export.graph.model_file import save_model
from ptq_export.graph.passes.half_precision import HalfPrecision
from ptq_export.nn.scheme import TENSORRT

with_rtx = pytest.mark.skipif(find_spec(RTX) is None, reason="TensorRT for RTX has no package for this platform")


def tensorrt(version: str, name: str = "tensorrt") -> ModuleType:
    module = ModuleType(name)
    module.__version__ = version  # type: ignore[attr-defined]
    return module


@pytest.mark.parametrize(
    ("version", "network", "builder"),
    [
        ("8.4.3", [], []),
        ("8.5.2.2", [("EXPLICIT_BATCH",)], [("INT8", "FP16")]),
        ("8.6.1", [("EXPLICIT_BATCH",)], [("INT8", "FP16")]),
        ("10.3.0", [("STRONGLY_TYPED",), ("EXPLICIT_BATCH",)], [(), ("INT8", "FP16")]),
        ("10.12.0", [("STRONGLY_TYPED",)], [()]),
        ("11.4.1", [("STRONGLY_TYPED",)], [()]),
    ],
)
def test_the_precisions_are_told_by_version(
    version: str, network: list[tuple[str, ...]], builder: list[tuple[str, ...]]
) -> None:
    ways = typings(tensorrt(version))
    assert [way.network for way in ways] == network
    assert [way.builder for way in ways] == builder


@pytest.mark.parametrize(
    ("version", "builder"),
    [
        ("8.5.2", [("INT8", "FP16")]),
        ("10.3.0", [("INT8", "FP16"), ()]),
        ("10.12.0", [("INT8", "FP16"), ()]),
        ("11.4.1", [()]),
    ],
)
def test_for_a_dla_flags_come_first_where_there_are_flags(version: str, builder: list[tuple[str, ...]]) -> None:
    assert [way.builder for way in typings(tensorrt(version), flags_first=True)] == builder


@with_rtx
@pytest.mark.parametrize(("batch", "found", "profiles"), [("2", 2, 0), ("1:2:4", -1, 1)])
def test_one_batch_alone_becomes_a_part_of_the_network(batch: str, found: int, profiles: int, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    def look(trt: object, builder: object, network: Any, config: Any) -> None:
        sizes = {network.get_input(index).shape[0] for index in range(network.num_inputs)}
        seen.extend((size, config.num_optimization_profiles) for size in sizes)

    save_model(HalfPrecision()(exported(Stack(16, 1), (16, SIZE, SIZE))).model, tmp_path / "net.onnx")
    assert build_plan.main([str(tmp_path / "net.onnx"), "--package", RTX, "--batch", batch], look) == 0
    assert seen == [(found, profiles)] and (tmp_path / "net.plan").stat().st_size > 0


@pytest.mark.parametrize(
    ("trt", "registered"),
    [
        (tensorrt("8.5.2.2"), [""]),
        (tensorrt("8.6.1"), [""]),
        (tensorrt("10.3.0"), []),
        (tensorrt("11.4.1"), []),
        (tensorrt("1.7.1", RTX), []),
    ],
    ids=lambda value: getattr(value, "__version__", None),
)
def test_plugins_are_registered_where_the_parser_makes_layers_of_them(trt: Any, registered: list[str]) -> None:
    found: list[str] = []
    trt.init_libnvinfer_plugins = lambda logger, name: found.append(name)
    build_plan.load_plugins(trt, None)
    assert found == registered


@with_rtx
def test_the_parser_is_told_to_take_tensorrt_s_own_instance_norm() -> None:
    trt = import_module(RTX)
    logger = trt.Logger(trt.Logger.ERROR)
    parser = trt.OnnxParser(trt.Builder(logger).create_network(0), logger)
    parser.clear_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    build_plan._take_native_norms(trt, parser)
    assert parser.get_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    build_plan._take_native_norms(tensorrt("8.5.2"), parser)  # which knows no such flag


def test_what_float16_cannot_hold_is_kept_in_float32_by_a_builder_that_chooses_types() -> None:
    types: dict[str, object] = {}

    def layer(name: str) -> SimpleNamespace:
        return SimpleNamespace(
            name=name, precision=None, num_outputs=1, set_output_type=lambda _, kind: types.update({name: kind})
        )

    layers = [layer("conv1"), layer(f"norm1_2_Mul{build_plan.FLOAT32}")]
    config = SimpleNamespace(flags=[])
    config.set_flag = config.flags.append
    trt = SimpleNamespace(float32="float32", BuilderFlag=SimpleNamespace(PREFER_PRECISION_CONSTRAINTS="prefer"))
    build_plan._keep_float32(trt, SimpleNamespace(num_layers=2, get_layer=layers.__getitem__), config)
    assert [each.precision for each in layers] == [None, "float32"]
    assert types == {layers[1].name: "float32"} and config.flags == ["prefer"]


@pytest.mark.parametrize(("version", "said"), [("8.5.2", True), ("8.6.1", True), ("10.3", False), ("11.0", False)])
def test_a_version_that_needs_another_graph_says_which(version: str, said: bool) -> None:
    graph = typings(tensorrt(version))[-1].graph
    assert ("opset 17" in graph and "float32" in graph) == said


def test_tensorrt_for_rtx_counts_its_own_versions() -> None:
    assert typings(tensorrt("1.7.1", RTX)) == typings(tensorrt("11.0"))


@with_rtx
def test_a_flag_that_a_version_has_dropped_is_left_out() -> None:
    known = import_module(RTX).NetworkDefinitionCreationFlag
    assert build_plan._bits(known, ("STRONGLY_TYPED",)) == 1 << int(known.STRONGLY_TYPED)
    assert build_plan._bits(known, ("EXPLICIT_BATCH",)) == 0


@with_rtx
@pytest.mark.parametrize(
    ("half", "int8", "needed"),
    [(True, True, ("INT8", "FP16")), (True, False, ("FP16",)), (False, False, ())],
    ids=["int8", "float16", "float32"],
)
def test_a_float_baseline_is_not_turned_into_int8(
    half: bool, int8: bool, needed: tuple[str, ...], tmp_path: Path
) -> None:
    graph = exported(quantised(Stack(16, 1), TENSORRT) if int8 else Stack(16, 1), (16, SIZE, SIZE))
    save_model(HalfPrecision()(graph).model if half else graph, tmp_path / "net.onnx")
    trt = import_module(RTX)
    logger = trt.Logger(trt.Logger.ERROR)
    network = trt.Builder(logger).create_network(0)
    assert trt.OnnxParser(network, logger).parse_from_file(str(tmp_path / "net.onnx"))
    assert build_plan._needed(trt, network, ("INT8", "FP16")) == needed
    asked = build_plan._needed(trt, network, ("INT8", "FP16"), fp16=True)
    assert asked == (("INT8", "FP16") if int8 else ("FP16",)), "a float32 graph where float16 is asked for"


@with_rtx
def test_where_types_are_the_graph_s_the_flag_for_float16_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert build_plan.main([str(tmp_path / "net.onnx"), "--package", RTX, "--fp16"]) == build_plan.UNUSABLE
    assert "no FP16 flag: give it a float16 graph" in capsys.readouterr().err


@with_rtx
def test_a_plan_for_rtx_can_be_recorded_and_no_other_is_asked() -> None:
    assert build_plan._recordable(import_module(RTX)) == ("REQUIRE_USER_ALLOCATION",)
    assert build_plan._recordable(tensorrt("11.0")) == ()


@with_rtx
def test_what_is_asked_of_every_version_exists_in_the_newest() -> None:
    trt = import_module(RTX)
    config = trt.Builder(trt.Logger(trt.Logger.ERROR)).create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, 64 << 20)
    config.builder_optimization_level = 5
    assert config.get_memory_pool_limit(trt.MemoryPoolType.WORKSPACE) == 64 << 20
    assert config.builder_optimization_level == 5 and config.profiling_verbosity == trt.ProfilingVerbosity.DETAILED


def test_timings_are_kept_per_device_and_version() -> None:
    file = timing_cache_file(Path("run"), "tensorrt", "10.12.0", "NVIDIA GeForce RTX 4090")
    assert file == Path("run/timing-tensorrt-10.12.0-NVIDIA-GeForce-RTX-4090.cache")
    others = [("tensorrt", "11.0", "NVIDIA GeForce RTX 4090"), ("tensorrt", "10.12.0", "Orin")]
    assert len({file, *(timing_cache_file(Path("run"), *other) for other in others)}) == 3


def test_a_way_is_a_plain_value() -> None:
    assert Typing((), ()) == ((), (), "")
