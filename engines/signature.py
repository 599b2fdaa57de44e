"""What an exported denoiser takes and makes, read from its ONNX file."""

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from ptq_export.engines.base import Signature
from ptq_export.errors import InputError
from ptq_export.interface import CLASSES, INPUTS, TRAIN_TIMESTEPS

__all__ = ["read_signature"]


def read_signature(source: Path, batch: int | None = None) -> Signature:
    """The signature of `source`, for one batch size where it is built for that.

    Raises:
        InputError: it is no ONNX file, or not a denoiser.
    """
    try:
        model = onnx.load(source)
    except DecodeError as error:
        raise InputError(f"{source.name} is no ONNX file: {error}", "export it again") from error
    inputs = {value.name: _shape(value) for value in model.graph.input}
    shape = inputs.get("sample", []) if set(inputs) in (set(INPUTS), set(INPUTS[:2])) else []
    channels, height, width = shape[1:] if len(shape) == 4 else (None, None, None)
    if not (isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)):
        described = ", ".join(f"{name} {sizes}" for name, sizes in inputs.items())
        raise InputError(f"{source.name} is not a denoiser of (sample, timestep): it takes {described or 'nothing'}")
    stated = {item.key: item.value for item in model.metadata_props}
    steps, classes = (int(stated[key]) if key in stated else None for key in (TRAIN_TIMESTEPS, CLASSES))
    if ("label" in inputs) != (classes is not None):
        raise InputError(f"{source.name} takes labels and does not say how many, or the reverse", "export it again")
    fixed = shape[0] if isinstance(shape[0], int) else batch
    made = _shape(model.graph.output[0])[1]
    return Signature((channels, height, width), made if isinstance(made, int) else channels, fixed, steps, classes)


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    """Sizes; those that are open by name."""
    return [size.dim_value or size.dim_param for size in value.type.tensor_type.shape.dim]
