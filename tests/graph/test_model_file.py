"""Models on disk: one file, above its limit two, the same bytes each time, or nothing."""

import errno
import weakref
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from graph_models import TIME_NET, TinyNet, export, model_bytes, noise, parse, run, tiny_unet

from ptq_export.artifacts import sha256_file
from ptq_export.errors import InputError
from ptq_export.graph import model_file
from ptq_export.graph.model_file import load_model, read_proto, save_model
from ptq_export.graph.passes.fold_time_embedding import FoldTimeEmbedding
from ptq_export.graph.passes.strip_metadata import StripMetadata


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


def test_a_self_contained_file_has_the_bytes_that_it_always_had(tmp_path: Path) -> None:
    save_model(parse(TIME_NET), tmp_path / "net.onnx")
    assert sha256_file(tmp_path / "net.onnx") == "8728fefaccaa40863feed93305e93de2c0ffebdc8d3d55b86cb342698ac1e295"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if one file held no more than a kilobyte."""
    monkeypatch.setattr(model_file, "SELF_CONTAINED_BYTES", 1000)


@pytest.mark.usefixtures("small")
def test_a_large_model_comes_back_from_two_files_of_the_same_bytes(tmp_path: Path) -> None:
    model = export(tiny_unet(), batch=2)
    wanted = run(model, noise(2, 1, 8, 8), np.array([1, 2]))
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_model(model, tmp_path / name / "net.onnx")
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["net.onnx", "net.onnx.data"]
    for name in ("net.onnx", "net.onnx.data"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    loaded = load_model(tmp_path / "a" / "net.onnx")
    assert loaded.metadata_props == model.metadata_props
    assert np.array_equal(run(ir.external_data.load_to_model(loaded), noise(2, 1, 8, 8), np.array([1, 2])), wanted)
    assert all(not isinstance(value.const_value, ir.ExternalTensor) for value in model.graph.initializers.values())


def test_weights_past_the_limit_are_written_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[ir.Tensor] = weakref.WeakSet()

    def made() -> ir.TensorProtocol:
        assert not alive, "the weight before is still in memory"
        alive.add(tensor := ir.tensor(np.ones((3, 100), np.float32)))
        return tensor

    model = parse(TIME_NET)
    for name in ("w1", "w2"):
        shape = ir.Shape([3, 100])
        lazy = ir.LazyTensor(made, dtype=ir.DataType.FLOAT, shape=shape, name=name)
        model.graph.initializers[name].const_value = lazy
    monkeypatch.setattr(model_file, "SELF_CONTAINED_BYTES", 2000)
    save_model(model, tmp_path / "net.onnx")
    assert (tmp_path / "net.onnx.data").stat().st_size == 4096 + 1200


def large() -> ir.Model:
    """A net with one weight of 4 kB."""
    model = parse(TIME_NET)
    tensor = ir.tensor(np.ones((3, 343), np.float32), name="w1")
    model.graph.initializers["w1"].const_value = tensor
    return model


SPLIT = """<ir_version: 10, opset_import: ["": 18]> net (float[N,3000] x) => (float[N,100] y)
<int64[30] widths = {WIDTHS}, float[3000] w = {WEIGHTS}> {
    sum = Add(x, w)
    OUTPUTS = Split<axis = 1>(sum, widths)
    y = Relu(part0)
}"""


@pytest.mark.usefixtures("small")
def test_what_an_engine_must_know_of_the_graph_stays_in_it(tmp_path: Path) -> None:
    fields = {"WIDTHS": "100, " * 29 + "100", "WEIGHTS": "1, " * 2999 + "1"}
    fields["OUTPUTS"] = ", ".join(f"part{index}" for index in range(30))
    text = SPLIT
    for name, value in fields.items():
        text = text.replace(name, value)
    path = save_model(parse(text), tmp_path / "net.onnx")
    (outside,) = [tensor.name for tensor in read_proto(path).graph.initializer if tensor.external_data]
    assert outside == "w"
    moved = load_model(path)
    data = tmp_path / "net.onnx.data"
    data.write_bytes(data.read_bytes() + np.full(30, 100).tobytes())
    elsewhere = ir.ExternalTensor(
        "net.onnx.data", 12000, 240, ir.DataType.INT64, shape=ir.Shape([30]), name="widths", base_dir=tmp_path
    )
    moved.graph.initializers["widths"].const_value = elsewhere
    path = save_model(moved, tmp_path / "back.onnx")
    y = ort.InferenceSession(str(path)).run(None, {"x": np.zeros((2, 3000), np.float32)})[0]
    assert np.array_equal(y, np.ones((2, 100)))


@pytest.mark.usefixtures("small")
def test_a_large_model_can_be_written_over_itself_and_over_a_small_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, model = tmp_path / "net.onnx", large()
    save_model(parse(TIME_NET), path)
    save_model(model, path)
    save_model(load_model(path), path)
    (outside,) = [tensor.name for tensor in read_proto(path).graph.initializer if tensor.external_data]
    assert outside == "w1" and [file.name for file in sorted(tmp_path.iterdir())] == ["net.onnx", "net.onnx.data"]
    monkeypatch.undo()
    save_model(load_model(path), path)
    assert [file.name for file in tmp_path.iterdir()] == ["net.onnx"]
    load_model(path)


@pytest.mark.usefixtures("small")
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.onnx"
    save_model(large(), path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(model_file, "_write_large", full)
    with pytest.raises(InputError, match="No space left"):
        save_model(large(), path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"not a model", None], ids=["empty", "text", "truncated"])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(model_bytes(parse(TIME_NET))[:200] if content is None else content)
    with pytest.raises(InputError, match=r"net\.onnx"):
        load_model(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"net\.onnx"):
        load_model(tmp_path / "net.onnx")


def test_a_file_that_does_not_state_the_digest_of_its_data_is_refused(tmp_path: Path) -> None:
    ir.save(parse(TIME_NET), tmp_path / "net.onnx", external_data="net.onnx.data", size_threshold_bytes=0)
    with pytest.raises(InputError, match="does not state the sha256"):
        load_model(tmp_path / "net.onnx")
