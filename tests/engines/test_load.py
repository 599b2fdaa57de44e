"""`load_engine`: the ONNX of a finished run, and no other."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from least import least_manifest

from ptq_export.artifacts import sha256_file, write_json
from ptq_export.engines import load_engine
from ptq_export.engines.base import EngineOptions
from ptq_export.errors import InputError

Write = Callable[..., Path]
SAMPLE = np.ones((2, 2, 4, 4), np.float32)


@pytest.fixture
def run(denoiser_onnx: Write, tmp_path: Path) -> Path:
    """A run folder with an engine of batch 2 and a baseline of any batch."""
    files = [denoiser_onnx("denoiser.ort-int8.onnx", batch=2), denoiser_onnx("denoiser.fp32.onnx")]
    artefacts = {path.name: {"sha256": sha256_file(path), "size_bytes": path.stat().st_size} for path in files}
    write_json(tmp_path / "manifest.json", least_manifest(artefacts=artefacts))
    return tmp_path


def test_the_engine_of_the_run_is_loaded(run: Path, reference: Callable[..., np.ndarray]) -> None:
    engine = load_engine(str(run), options=EngineOptions(threads=1))
    assert engine.signature.batch == 2
    np.testing.assert_allclose(engine(SAMPLE, 7), reference(SAMPLE, np.array([7, 7])), rtol=1e-5, atol=1e-6)
    assert (run / "engine" / "denoiser.ort-int8.identity.json").exists()


def test_the_baseline_is_loaded_by_name(run: Path) -> None:
    assert load_engine(run, "ort-fp32").signature.batch is None


def test_a_damaged_onnx_is_refused(run: Path) -> None:
    path = run / "denoiser.ort-int8.onnx"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(InputError, match="is damaged: its sha256 is"):
        load_engine(run)


def test_a_damaged_onnx_is_refused_though_its_engine_is_cached(run: Path) -> None:
    load_engine(run, options=EngineOptions(threads=1))
    test_a_damaged_onnx_is_refused(run)


def test_a_removed_onnx_is_named(run: Path) -> None:
    (run / "denoiser.ort-int8.onnx").unlink()
    with pytest.raises(InputError, match=r"denoiser\.ort-int8\.onnx does not exist"):
        load_engine(run)


def test_an_unfinished_run_is_refused(run: Path) -> None:
    (run / "manifest.json").unlink()
    with pytest.raises(InputError, match="is not a finished run"):
        load_engine(run)


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"target": "ort-int9"}, "did you mean ort-int8"),
        ({"target": None}, "target is null, not text"),
        ({"artefacts": {}}, "has no denoiser.ort-int8.onnx in its manifest"),
        ({"artefacts": {"denoiser.ort-int8.onnx": {"sha256": 3}}}, r"artefacts\.denoiser.ort-int8.onnx\.sha256 is 3"),
        ({"schema": 1}, "has schema 1, this version reads 2\nmake the run again"),
        ({"schema": 3}, "has schema 3, this version reads 2\nupdate ptq-export"),
    ],
)
def test_a_manifest_of_another_kind_is_refused(run: Path, manifest: dict[str, object], message: str) -> None:
    write_json(run / "manifest.json", least_manifest(**manifest))
    with pytest.raises(InputError, match=message):
        load_engine(run)
