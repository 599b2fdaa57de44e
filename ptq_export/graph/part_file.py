"""What a float graph beside a denoiser's takes and makes, as its file says: prompt graph, text encoder, decoder."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import onnx

from ptq_export.errors import InputError
from ptq_export.graph.model_file import read_proto
from ptq_export.interface import INPUTS, DType, Input, values_from_json

__all__ = ["part_interface"]

DTYPES: dict[int, DType] = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.INT64: "int64"}
OPEN = "open"


def part_interface(path: Path) -> tuple[tuple[Input, ...], tuple[Input, ...]]:
    """Inputs, with the limits that the file states where it states any, and outputs.

    Raises:
        InputError: it is no ONNX file, or has inputs or outputs of another kind.
    """
    proto = read_proto(path)
    stated = next((item.value for item in proto.metadata_props if item.key == INPUTS), None)
    try:
        inputs = _values(proto.graph.input) if stated is None else values_from_json(json.loads(stated), path.name)
        return inputs, _values(proto.graph.output)
    except (KeyError, ValueError, RecursionError) as error:
        told = f"{path.name} does not say what its inputs and outputs are: {error!r}"
        raise InputError(told, "export it again") from error


def _values(infos: Iterable[Any]) -> tuple[Input, ...]:
    tensors = [(info.name, info.type.tensor_type) for info in infos]
    return tuple(
        Input(name, DTYPES[it.elem_type], tuple(dim.dim_value or dim.dim_param or OPEN for dim in it.shape.dim[1:]))
        for name, it in tensors
    )
