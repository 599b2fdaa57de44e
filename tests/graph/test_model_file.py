"""Models on disk: one file, the same bytes each time, or nothing."""

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graph_models import TIME_NET, TinyNet, export, model_bytes, noise, parse, run

from ptq_export.errors import InputError
from ptq_export.graph.passes.fold_time_embedding import FoldTimeEmbedding
from ptq_export.graph.passes.strip_metadata import StripMetadata
from ptq_export.graph.model_file import MAX_BYTES, load_model, save_model


def test_a_saved_model_comes_back_from_one_file(tmp_path: Path) -> None:
    model = parse(TIME_NET)
    save_model(model, tmp_path / "net.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]
    loaded = load_model(tmp_path / "net.onnx")
    sample, steps = noise(2, 3, 2, 2), np.array([1, 2])
    assert np.array_equal(run(loaded, sample, steps), run(model, sample, steps))


def test_two_exports_of_a_net_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        model = export(TinyNet(), batch=None)
        assert FoldTimeEmbedding(1000)(model).modified
        StripMetadata()(model)
        save_model(model, tmp_path / name)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_weights_of_other_files_are_brought_in(tmp_path: Path) -> None:
    ir.save(parse(TIME_NET), tmp_path / "outside.onnx", external_data="weights.bin", size_threshold_bytes=0)
    assert (tmp_path / "weights.bin").exists()
    model = ir.load(tmp_path / "outside.onnx")
    save_model(model, tmp_path / "inside.onnx")
    (tmp_path / "weights.bin").unlink()
    sample, steps = noise(2, 3, 2, 2), np.array([1, 2])
    assert np.array_equal(run(load_model(tmp_path / "inside.onnx"), sample, steps), run(parse(TIME_NET), sample, steps))


def test_a_model_past_protobufs_limit_is_refused_before_its_weights_are_made(tmp_path: Path) -> None:
    def never() -> ir.TensorProtocol:
        raise AssertionError("evaluated")

    model = parse(TIME_NET)
    model.graph.initializers["w1"].const_value = ir.LazyTensor(
        never, dtype=ir.DataType.FLOAT, shape=ir.Shape([MAX_BYTES // 4 + 1]), name="w1"
    )
    with pytest.raises(InputError, match=r"2\.1 GB") as error:
        save_model(model, tmp_path / "net.onnx")
    assert "int8" in error.value.remedy
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"not a model", None], ids=["empty", "text", "truncated"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(model_bytes(parse(TIME_NET))[:200] if content is None else content)
    with pytest.raises(InputError, match=r"net\.onnx"):
        load_model(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"net\.onnx"):
        load_model(tmp_path / "net.onnx")


def test_a_file_without_its_weights_is_refused(tmp_path: Path) -> None:
    ir.save(parse(TIME_NET), tmp_path / "net.onnx", external_data="weights.bin", size_threshold_bytes=0)
    with pytest.raises(InputError, match="another file"):
        load_model(tmp_path / "net.onnx")
