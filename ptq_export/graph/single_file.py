"""One self-contained `.onnx` file per model: whole or absent, the same model giving the same bytes.

The only place where ONNX files are parsed: each may have come from anyone. Weights in another file are refused, before
any path in the file is looked at.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ptq_export.artifacts import atomic_path, require_regular
from ptq_export.errors import InputError

__all__ = ["MAX_BYTES", "load_model", "read_proto", "save_model"]

MAX_BYTES = 2**31 - 1
"""Protobuf's limit for one message, and so for an ONNX file without external data."""


def save_model(model: ir.Model, path: Path) -> None:
    """Write `model` with all its weights to `path`.

    Raises:
        InputError: the model does not fit one file, or the folder cannot be written; nothing was written.
    """
    weight_bytes = sum(tensor.nbytes for tensor in _weights(model))
    if weight_bytes >= MAX_BYTES:
        raise _too_large(path, weight_bytes)
    ir.external_data.load_to_model(model)
    proto = ir.to_proto(model)
    if proto.ByteSize() > MAX_BYTES:
        raise _too_large(path, proto.ByteSize())
    with atomic_path(path) as temporary:
        temporary.write_bytes(proto.SerializeToString(deterministic=True))


def load_model(path: Path) -> ir.Model:
    """Read a model that `save_model` wrote.

    Raises:
        InputError: see `read_proto`, or onnx-ir cannot read it.
    """
    proto = read_proto(path)
    try:
        return ir.from_proto(proto)
    except Exception as error:  # whatever its reader stumbles over: it expects a valid model
        raise InputError(f"{path} is damaged or is no ONNX model: {_first_line(error)}", "export it again") from error


def read_proto(path: Path) -> onnx.ModelProto:
    """Read a self-contained ONNX file.

    Raises:
        InputError: the file is absent, is not an ONNX model, or keeps its weights in another file.
    """
    remedy = "export it again"
    size_bytes = require_regular(path)
    if size_bytes > MAX_BYTES:
        raise _too_large(path, size_bytes)
    try:
        proto: onnx.ModelProto = onnx.ModelProto.FromString(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except DecodeError as error:
        raise InputError(f"{path} is damaged or is no ONNX model", remedy) from error
    if not proto.HasField("graph"):
        raise InputError(f"{path} is empty or is no ONNX model", remedy)
    for tensor in _tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            raise InputError(f"{path} keeps its weights in another file", "save it with all weights in one file")
    return proto


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a model, those of subgraphs, functions, training and attributes as well."""
    waiting: list[Any] = [proto.graph, *proto.functions]
    waiting += [graph for each in proto.training_info for graph in (each.initialization, each.algorithm)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, onnx.GraphProto):
            yield from part.initializer
            for sparse in part.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        attributes = [attribute for node in part.node for attribute in node.attribute]
        if isinstance(part, onnx.FunctionProto):
            attributes += part.attribute_proto
        for attribute in attributes:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            waiting += [attribute.g, *attribute.graphs]


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]


def _weights(model: ir.Model) -> list[ir.TensorProtocol]:
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return [value.const_value for value in values if value.const_value is not None]


def _too_large(path: Path, size_bytes: int) -> InputError:
    return InputError(
        f"{path} would take {size_bytes / 1e9:.1f} GB, and one ONNX file holds at most {MAX_BYTES / 1e9:.1f} GB",
        "keep fewer layers in float: an int8 weight takes a quarter of the space",
    )
