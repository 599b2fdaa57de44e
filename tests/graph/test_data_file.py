"""Weights in another file are read from beside the graph alone, and only as the graph may say where they lie there."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from ptq_export.errors import InputError
from ptq_export.graph import data_file
from ptq_export.graph.model_file import DATA_SHA256, read_proto

Change = Callable[[onnx.ModelProto, Path], None]


@pytest.fixture
def net(tmp_path: Path) -> Path:
    """A sum of two weights of 400 bytes, which lie one behind the other in `net.onnx.data`."""
    numbers = np.arange(200, dtype=np.float32)
    (tmp_path / "net.onnx.data").write_bytes(numbers.tobytes())
    ends = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [100])]
    node = onnx.helper.make_node("Add", ["a", "b"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "net", [], ends))
    for index, name in enumerate("ab"):
        tensor = model.graph.initializer.add(name=name, dims=[100], data_type=onnx.TensorProto.FLOAT)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in {"location": "net.onnx.data", "offset": 400 * index, "length": 400}.items():
            tensor.external_data.add(key=key, value=str(value))
    onnx.helper.set_model_props(model, {DATA_SHA256: data_file.sha256_file(tmp_path / "net.onnx.data")})
    onnx.save(model, tmp_path / "net.onnx")
    return tmp_path / "net.onnx"


def says(**fields: str) -> Change:
    """What the graph says of where its second weight lies."""

    def change(model: onnx.ModelProto, _: Path) -> None:
        for entry in model.graph.initializer[1].external_data:
            entry.value = fields.get(entry.key, entry.value)

    return change


def twice(model: onnx.ModelProto, _: Path) -> None:
    model.graph.initializer[1].external_data.add(key="location", value="/etc/passwd")


def as_attribute(model: onnx.ModelProto, _: Path) -> None:
    node = model.graph.node.add(op_type="Constant", output=["c"])
    node.attribute.append(onnx.helper.make_attribute("value", model.graph.initializer[0]))


def as_text(model: onnx.ModelProto, _: Path) -> None:
    model.graph.initializer[1].data_type = onnx.TensorProto.STRING


def absent(_: onnx.ModelProto, data: Path) -> None:
    data.unlink()


def cut(_: onnx.ModelProto, data: Path) -> None:
    os.truncate(data, 799)


def flipped(_: onnx.ModelProto, data: Path) -> None:
    data.write_bytes(b"\1" + data.read_bytes()[1:])


def linked(_: onnx.ModelProto, data: Path) -> None:
    data.rename(data.with_name("elsewhere"))
    data.symlink_to("elsewhere")


def hard_linked(_: onnx.ModelProto, data: Path) -> None:
    data.with_name("elsewhere").hardlink_to(data)


def pipe(_: onnx.ModelProto, data: Path) -> None:
    data.unlink()
    os.mkfifo(data)


CHANGES: list[tuple[Change, str]] = [
    (says(location="/etc/passwd"), "keeps 'b' in '/etc/passwd'"),
    (says(location="../net.onnx.data"), r"keeps 'b' in '\.\./net\.onnx\.data'"),
    (says(location="other.data"), r"keeps 'b' in 'other\.data'"),
    (says(location=""), "keeps 'b' in ''"),
    (says(offset="401"), "has 800 bytes, and 'b' would lie at 401 to 801"),
    (says(offset="9" * 18), "has 800 bytes, and 'b' would lie at"),
    (says(offset="-400"), "does not say in numbers where 'b' lies"),
    (says(offset="399"), "lets 'b' and 'a' share bytes"),
    (says(length="404"), "gives 'b', 100, 404 bytes"),
    (says(length=""), "does not say in numbers where 'b' lies"),
    (twice, "says of 'b' twice"),
    (as_attribute, "values that are no weights in another file"),
    (as_text, "gives 'b', 100, 400 bytes"),
    (absent, r"net\.onnx\.data cannot be read: net\.onnx keeps its weights there"),
    (cut, r"net\.onnx\.data has 799 bytes, .* cut off"),
    (flipped, r"net\.onnx\.data is damaged, or another model's"),
    (linked, r"net\.onnx\.data is a link"),
    (hard_linked, r"net\.onnx\.data is a link"),
    (pipe, r"net\.onnx\.data is no file"),
]


@pytest.mark.parametrize(("change", "message"), CHANGES, ids=[message[:24] for _, message in CHANGES])
def test_what_a_graph_may_not_say_of_its_data_is_refused_by_name(net: Path, change: Change, message: str) -> None:
    model = read_proto(net)
    change(model, net.with_name("net.onnx.data"))
    net.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=message):
        read_proto(net)
