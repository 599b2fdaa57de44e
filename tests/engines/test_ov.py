"""The OpenVINO engine: right numbers at any batch, one compilation per graph, batch and machine, layers read back."""

import gc
import json
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from layer_net import Net

from ptq_export.engines.base import EngineOptions
from ptq_export.engines.exported_layers import LayerRecord
from ptq_export.engines.ort.options import OrtOptions
from ptq_export.engines.registry import availability
from ptq_export.errors import InputError
from ptq_export.graph.model_file import load_model

pytest.importorskip("openvino")
from ptq_export.engines.ov import engine as engine_module
from ptq_export.engines.ov.engine import SHAPES_KEPT, OpenVinoBf16Engine, OpenVinoEngine

Write = Callable[..., Path]
ONE = EngineOptions(threads=1)
SAMPLE = np.random.default_rng(1).standard_normal((3, 2, 4, 4)).astype(np.float32)
TIMESTEP = np.array([0, 9, 4])


def compiled_again(caplog: pytest.LogCaptureFixture) -> bool:
    return any(record.message.startswith("compiling") for record in caplog.records)


def test_each_batch_is_compiled_once_and_imported_later(
    denoiser_onnx: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, cache = denoiser_onnx(), tmp_path / "engine"
    first = OpenVinoEngine(source, cache, ONE)(SAMPLE, TIMESTEP)
    stem = "denoiser.fp32.f32"
    wanted = {f"{stem}.batch{n}.{end}" for n in (1, 3) for end in ("compiled.blob", "identity.json")}
    assert {path.name for path in cache.iterdir()} == wanted
    with caplog.at_level(logging.INFO, logger="ptq_export"):
        assert np.array_equal(OpenVinoEngine(source, cache, ONE)(SAMPLE, TIMESTEP), first)
    assert not compiled_again(caplog)


def truncate(blob: Path, _: Path) -> None:
    blob.write_bytes(blob.read_bytes()[:100])


def drop_sidecar(_: Path, sidecar: Path) -> None:
    sidecar.unlink()


def move_to_another_machine(_: Path, sidecar: Path) -> None:
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"isa": ["avx2"]}))


@pytest.mark.parametrize("harm", [truncate, drop_sidecar, move_to_another_machine])
def test_an_unusable_blob_is_compiled_again(
    harm: Callable[[Path, Path], None], denoiser_onnx: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, cache = denoiser_onnx(), tmp_path / "engine"
    options = EngineOptions(batch=3, threads=1)
    eps = OpenVinoEngine(source, cache, options)(SAMPLE, TIMESTEP)
    harm(cache / "denoiser.fp32.f32.batch3.compiled.blob", cache / "denoiser.fp32.f32.batch3.identity.json")
    with caplog.at_level(logging.INFO, logger="ptq_export"):
        assert np.array_equal(OpenVinoEngine(source, cache, options)(SAMPLE, TIMESTEP), eps)
    assert compiled_again(caplog)


def test_only_the_latest_batches_are_kept_in_memory(denoiser_onnx: Write, tmp_path: Path) -> None:
    engine = OpenVinoEngine(denoiser_onnx(), tmp_path / "engine", ONE)
    for batch in range(1, SHAPES_KEPT + 3):
        engine(np.zeros((batch, 2, 4, 4), np.float32), 3)
    assert [sample[0] for sample, _ in engine._compiled] == list(range(3, SHAPES_KEPT + 3))


def test_of_a_large_net_only_the_batch_at_hand_is_kept(
    denoiser_onnx: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = denoiser_onnx()
    monkeypatch.setattr(engine_module, "total_memory_bytes", lambda: 7 * source.stat().st_size)
    engine = OpenVinoEngine(source, tmp_path / "engine", ONE)
    first, other, again = (engine(SAMPLE[:batch], TIMESTEP[:batch]) for batch in (2, 3, 2))
    assert [sample[0] for sample, _ in engine._compiled] == [2]
    assert np.array_equal(first, again) and other.shape == SAMPLE.shape


def test_a_blob_lasts_as_long_as_what_was_made_of_it(denoiser_onnx: Write, tmp_path: Path) -> None:
    source = denoiser_onnx()
    engine = OpenVinoEngine(source, tmp_path / "engine", EngineOptions(batch=3, threads=1))
    weights = [it.const_value.tobytes() for it in load_model(source).graph.initializers.values() if it.const_value]
    for blob in (tmp_path / "engine").glob("*.blob"):
        blob.unlink()
    gc.collect()
    (compiled,) = engine._compiled.values()
    assert max(weights, key=len) in compiled.model.export_model().getvalue()


def test_a_folder_that_cannot_be_written_does_not_stop_serving(
    denoiser_onnx: Write, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "engine").write_bytes(b"a file is in the way")
    engine = OpenVinoEngine(denoiser_onnx(), tmp_path / "engine", ONE)
    assert engine(SAMPLE, TIMESTEP).shape == SAMPLE.shape and "cannot be written" in caplog.text


def test_onnx_runtimes_own_option_is_refused(denoiser_onnx: Write, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="OrtOptions are not for this engine, which knows no arena, operators"):
        OpenVinoEngine(denoiser_onnx(), tmp_path / "engine", OrtOptions(arena=False))


@pytest.mark.skipif(not availability("openvino-bf16")[0], reason="this processor has no bfloat16")
def test_bfloat16_is_near_and_not_equal(
    denoiser_onnx: Write, reference: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    found = OpenVinoBf16Engine(denoiser_onnx(), tmp_path / "engine", ONE)(SAMPLE, TIMESTEP)
    np.testing.assert_allclose(found, reference(SAMPLE, TIMESTEP), atol=0.1)


def one_layer(net: Net, tmp_path: Path) -> LayerRecord:
    engine = OpenVinoEngine(net.save(tmp_path / "net.onnx"), tmp_path / "engine", ONE)
    (record,) = engine.executed_layers({"block.layer": "int8"})
    assert engine.layer_times_ms(engine.signature.nothing(2))["block.layer"] > 0
    assert record.name == "block.layer"
    return record


@pytest.mark.parametrize(
    "build",
    [
        lambda net: net.quantise().conv("block.layer", True),
        lambda net: net.rows().quantise().gemm("block.layer", True, zero_point=False),
    ],
    ids=["conv", "gemm"],
)
def test_an_int8_layer_is_recognised(build: Callable[[Net], Net], tmp_path: Path) -> None:
    record = one_layer(build(Net()), tmp_path)
    assert (record.precision, record.reason) == ("int8", "") and record.executed.endswith("_I8")


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda net: net.quantise().conv("block.layer", False), "its weights are float"),
        (lambda net: net.conv("block.layer", True), "no Q/DQ on its input"),
    ],
)
def test_a_float_layer_says_why(build: Callable[[Net], Net], reason: str, tmp_path: Path) -> None:
    record = one_layer(build(Net()), tmp_path)
    assert (record.precision, record.reason) == ("float", reason)
