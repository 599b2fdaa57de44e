"""ONNX models on disk: one self-contained `name.onnx` of up to 2 GB, above it `name.onnx` and `name.onnx.data` with the
weights. Whole or absent, the same model giving the same bytes.

The only place where ONNX files are parsed: each may have come from anyone. Weights are read from `name.onnx.data`
beside the file and from nowhere else (`ptq_export.graph.data_file`); the graph states the sha256 of that file, so that
its own sha256 covers both.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ptq_export.artifacts import atomic_with_data, data_beside, prompt_beside, require_regular, sha256_file
from ptq_export.errors import InputError
from ptq_export.graph.data_file import check_data, name_data

__all__ = ["DATA_SHA256", "MAX_BYTES", "adopt", "is_large", "load_model", "model_bytes", "read_proto", "save_model"]

MAX_BYTES = 2**31 - 1
"""Protobuf's limit for one message, and so for an ONNX file without external data."""
SELF_CONTAINED_BYTES = MAX_BYTES
"""Models that take more get their weights into a file of their own. Readers do not ask: they find what there is."""
INSIDE_BYTES = 256
"""Smaller constants stay in the graph."""
IN_THE_GRAPH = frozenset({ir.DataType.INT64, ir.DataType.STRING})
"""Shapes, axes, widths of a Split: engines need them to know the graph, and ONNX Runtime looks nowhere else."""
ALIGNMENT = 4096
"""Of each weight in the data file: a page, as the ONNX specification advises for memory mapping."""
DATA_SHA256 = "ptq_export.data_sha256"


def save_model(model: ir.Model, path: Path) -> Path:
    """Write `model` with all its weights to `path`, and to the data file beside it if it is large; returns `path`.

    Raises:
        InputError: the folder cannot be written; nothing was.
    """
    weights = _weights(model)
    if sum(tensor.nbytes for tensor in weights.values()) >= SELF_CONTAINED_BYTES:
        _save_with_data(model, weights, path)
        return path
    ir.external_data.load_to_model(model)
    proto = ir.to_proto(model)
    if proto.ByteSize() > SELF_CONTAINED_BYTES:
        _save_with_data(model, weights, path)
        return path
    with atomic_with_data(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))
    return path


def load_model(path: Path) -> ir.Model:
    """Read a model that `save_model` wrote; weights of a data file are mapped into memory when they are asked for.

    Raises:
        InputError: see `read_proto`, or onnx-ir cannot read it.
    """
    proto = read_proto(path)
    try:
        model: ir.Model = ir.from_proto(proto)
        ir.external_data.set_base_dir(model.graph, path.parent.absolute())
    except Exception as error:  # whatever its reader stumbles over: it expects a valid model
        raise InputError(f"{path} is damaged or is no ONNX model: {_first_line(error)}", "export it again") from error
    model.metadata_props.pop(DATA_SHA256, None)  # of the file, not of the model
    return model


def read_proto(path: Path) -> onnx.ModelProto:
    """Read an ONNX file; what it says of its data file holds, that file itself is not loaded.

    Raises:
        InputError: the file is absent or is not an ONNX model, or its weights are not what it says, where it says.
    """
    remedy = "export it again"
    size_bytes = require_regular(path)
    if size_bytes > MAX_BYTES:
        raise InputError(f"{path} has {size_bytes / 1e9:.1f} GB, an ONNX file at most {MAX_BYTES / 1e9:.1f}", remedy)
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except DecodeError as error:
        raise InputError(f"{path} is damaged or is no ONNX model", remedy) from error
    if not proto.HasField("graph"):
        raise InputError(f"{path} is empty or is no ONNX model", remedy)
    check_data(proto, path, next((item.value for item in proto.metadata_props if item.key == DATA_SHA256), None))
    return proto


def adopt(path: Path, name: str) -> None:
    """Make a large model that some engine has just written, with the data file beside it, like one of `save_model`: its
    data file will have the other name, and it states that file's sha256."""
    proto: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    name_data(proto, name)
    _write_large(proto, path, sha256_file(data_beside(path)))


def model_bytes(path: Path) -> int:
    """The size of a model on disk, its data file and its prompt graph included."""
    prompt = prompt_beside(path)
    beside = (data_beside(path), prompt, data_beside(prompt))
    return path.stat().st_size + sum(file.stat().st_size for file in beside if file.is_file())


def is_large(path: Path) -> bool:
    """Whether a model has a data file, or what an engine makes of it may not fit one file: it lays weights out anew."""
    return data_beside(path).is_file() or path.stat().st_size > SELF_CONTAINED_BYTES // 2


def _save_with_data(model: ir.Model, weights: Mapping[ir.Value, ir.TensorProtocol], path: Path) -> None:
    with atomic_with_data(path) as temporary:
        placed, sha256 = _write_data(weights, data_beside(temporary), data_beside(path).name)
        try:
            for value, tensor in placed.items():
                value.const_value = tensor
            proto = ir.to_proto(model)
        finally:
            for value in placed:
                value.const_value = weights[value]
        _write_large(proto, temporary, sha256)


def _write_large(proto: onnx.ModelProto, path: Path, sha256: str) -> None:
    others = [item for item in proto.metadata_props if item.key != DATA_SHA256]
    stated = onnx.StringStringEntryProto(key=DATA_SHA256, value=sha256)
    onnx.helper.set_model_props(proto, {item.key: item.value for item in [*others, stated]})
    path.write_bytes(proto.SerializeToString(deterministic=True))


def _write_data(
    weights: Mapping[ir.Value, ir.TensorProtocol], file: Path, name: str
) -> tuple[dict[ir.Value, ir.TensorProtocol], str]:
    """Write all `weights` that are numbers of some size to `file`, one at a time; returns every weight as the graph
    is to have it, with the later `name` of the file, and the sha256 of that."""
    placed: dict[ir.Value, ir.TensorProtocol] = {}
    total, end = hashlib.sha256(), 0
    with file.open("wb") as data:
        for value, tensor in weights.items():
            if tensor.nbytes < INSIDE_BYTES or tensor.dtype in IN_THE_GRAPH:
                placed[value] = _in_memory(tensor)
                continue
            padding, content = bytes(-end % ALIGNMENT), tensor.tobytes()
            for part in (padding, content):
                data.write(part)
                total.update(part)
            offset, end = end + len(padding), end + len(padding) + len(content)
            placed[value] = ir.ExternalTensor(
                name, offset, len(content), tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=str(value.name)
            )
    return placed, total.hexdigest()


def _in_memory(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """Itself, or what another data file has in its place."""
    if not isinstance(tensor, ir.ExternalTensor):
        return tensor
    return ir.tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)


def _weights(model: ir.Model) -> dict[ir.Value, ir.TensorProtocol]:
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return {value: value.const_value for value in values if value.const_value is not None}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]
