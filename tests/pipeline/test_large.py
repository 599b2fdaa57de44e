"""The main job with models that no single file holds: every verb, and data files that are not what they were.

The limit is lowered, and the tiny run makes its graphs and engines again under it.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import tiny
from watcher import Watcher

from ptq_export.artifacts import sha256_file
from ptq_export.engines.base import EngineOptions
from ptq_export.errors import GateFailed, InputError
from ptq_export.graph import model_file
from ptq_export.graph.model_file import DATA_SHA256, load_model, read_proto, save_model
from ptq_export.pipeline import bench, load_engine, run, verify
from ptq_export.pipeline.progress import SILENT
from ptq_export.run_folder import RunFolder

FP32, INT8 = "denoiser.fp32.onnx", "denoiser.ort-int8.onnx"
ONE = EngineOptions(threads=1)


@pytest.fixture(scope="module")
def low() -> Iterator[None]:
    """As if one file held no more than a kilobyte."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_file, "SELF_CONTAINED_BYTES", 1000)
        yield


@pytest.fixture(scope="module")
def whole(finished: Path, tmp_path_factory: pytest.TempPathFactory, low: None) -> Path:
    """The tiny run, its graphs in two files each; do not change it."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("runs") / "large"))
    shutil.rmtree(folder / "engine")
    for graph in folder.glob("*.onnx"):
        graph.unlink()
    return run(tiny.options(folder))


@pytest.fixture
def large(whole: Path, tmp_path: Path) -> Path:
    """The same in a folder of the test's own."""
    return Path(shutil.copytree(whole, tmp_path / "large"))


def test_every_proof_holds_on_the_same_weights(whole: Path, finished: Path) -> None:
    manifest = json.loads((whole / "manifest.json").read_text())
    assert manifest["verdict"]["ok"] and manifest["verdict"]["layers_read_from"] == "engine"
    for name in (FP32, INT8):
        assert manifest["artefacts"][f"{name}.data"]["sha256"] == sha256_file(whole / f"{name}.data")
        assert (whole / name).stat().st_size < (finished / name).stat().st_size
        first, second = (load_model(folder / name).graph.initializers for folder in (whole, finished))
        assert {key: it.const_value.tobytes() for key, it in first.items()} == {
            key: it.const_value.tobytes() for key, it in second.items()
        }


def test_the_engine_lies_in_two_files_and_computes_the_same(whole: Path, finished: Path) -> None:
    assert (whole / "engine" / "denoiser.ort-int8.optimised.onnx.data").is_file()
    x = np.random.default_rng(0).standard_normal((2, 1, 8, 8)).astype(np.float32)
    for which in (None, "ort-fp32"):
        first, second = (load_engine(folder, which, ONE)(x, 500) for folder in (whole, finished))
        assert np.array_equal(first, second)


def test_a_finished_run_is_verified_timed_and_not_done_again(large: Path, watcher: Watcher) -> None:
    assert verify(large, SILENT, tiny.SPEC)["parity"] > 20
    sizes = bench(large, SILENT)["size_bytes"]
    assert sizes["ort-int8"] == sum((large / name).stat().st_size for name in (INT8, f"{INT8}.data"))
    assert run(tiny.options(large), watcher) == large and watcher.stages == []


def test_a_damaged_data_file_is_a_miss_of_its_graph(large: Path, flip: Callable[[Path], None]) -> None:
    flip(large / f"{INT8}.data")
    with RunFolder.open(large) as folder:
        assert folder.has(FP32) and not folder.has(INT8)
        folder.forget([INT8])
        assert f"{FP32}.data" in folder.names and f"{INT8}.data" not in folder.names
        (large / f"{FP32}.data").unlink()
        folder.keep(FP32)
        assert f"{FP32}.data" not in folder.names, "a graph that is written in one file has none any more"


@pytest.mark.slow
def test_a_damaged_data_file_is_made_again_with_its_graph(
    large: Path, flip: Callable[[Path], None], watcher: Watcher
) -> None:
    before = sha256_file(large / f"{INT8}.data")
    flip(large / f"{INT8}.data")
    run(tiny.options(large), watcher)
    assert "ONNX export" in watcher.stages and "ONNX export, float" not in watcher.stages
    assert sha256_file(large / f"{INT8}.data") == before


def absent(data: Path) -> None:
    data.unlink()


def cut(data: Path) -> None:
    data.write_bytes(data.read_bytes()[:-1])


def swapped(data: Path) -> None:
    """That of a run whose weights have other values."""
    model = load_model(data.with_suffix(""))
    for value in model.graph.initializers.values():
        tensor = value.const_value
        if tensor is not None and tensor.dtype == ir.DataType.INT8 and tensor.nbytes > 300:
            value.const_value = ir.tensor(-np.maximum(tensor.numpy(), -127), name=tensor.name)
    save_model(model, data.with_name("other.onnx"))
    data.with_name("other.onnx.data").replace(data)


@pytest.mark.parametrize("change", [absent, cut, swapped], ids=lambda change: change.__name__)
def test_a_data_file_that_is_not_the_run_s_is_named(large: Path, change: Callable[[Path], None]) -> None:
    change(large / f"{INT8}.data")
    with pytest.raises(InputError, match=r"denoiser\.ort-int8\.onnx\.data") as refused:
        load_engine(large, options=ONE)
    assert "copy both files" in refused.value.remedy
    with pytest.raises(GateFailed, match=r"denoiser\.ort-int8\.onnx\.data is damaged"):
        verify(large, SILENT, tiny.SPEC)


def test_a_name_that_leads_out_is_refused_though_all_digests_fit(large: Path) -> None:
    shutil.copyfile(large / f"{INT8}.data", large.parent / "outside")
    proto = read_proto(large / INT8)
    for tensor in proto.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../outside" if entry.key == "location" else entry.value
    (large / INT8).write_bytes(proto.SerializeToString())
    manifest = json.loads((large / "manifest.json").read_text())
    manifest["artefacts"][INT8]["sha256"] = sha256_file(large / INT8)
    (large / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"in '\.\./outside'"):
        load_engine(large, options=ONE)


def test_an_engine_whose_data_were_changed_is_built_again(large: Path, flip: Callable[[Path], None]) -> None:
    data = large / "engine" / "denoiser.ort-int8.optimised.onnx.data"
    before = sha256_file(data)
    flip(data)
    load_engine(large, options=ONE)
    assert sha256_file(data) == before
    stated = {item.key: item.value for item in read_proto(data.with_suffix("")).metadata_props}
    assert stated[DATA_SHA256] == before
