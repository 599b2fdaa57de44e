"""One self-contained `.onnx` file per model: whole or absent, the same model giving the same bytes."""

from pathlib import Path

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from ptq_export.artifacts import atomic_path
from ptq_export.errors import InputError

__all__ = ["MAX_BYTES", "load_model", "save_model"]

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
        InputError: the file is absent, is not an ONNX model, or keeps its weights in another file.
    """
    remedy = "export it again"
    try:
        proto = onnx.ModelProto.FromString(path.read_bytes())
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except DecodeError as error:
        raise InputError(f"{path} is damaged or is no ONNX model", remedy) from error
    if not proto.HasField("graph"):
        raise InputError(f"{path} is empty or is no ONNX model", remedy)
    model: ir.Model = ir.from_proto(proto)
    if any(isinstance(tensor, ir.ExternalTensor) for tensor in _weights(model)):
        raise InputError(f"{path} keeps its weights in another file", "save it with all weights in one file")
    return model


def _weights(model: ir.Model) -> list[ir.TensorProtocol]:
    values = (value for graph in model.graphs() for value in graph.initializers.values())
    return [value.const_value for value in values if value.const_value is not None]


def _too_large(path: Path, size_bytes: int) -> InputError:
    return InputError(
        f"{path} would take {size_bytes / 1e9:.1f} GB, and one ONNX file holds at most {MAX_BYTES / 1e9:.1f} GB",
        "keep fewer layers in float: an int8 weight takes a quarter of the space",
    )
