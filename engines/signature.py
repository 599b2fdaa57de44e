"""What an exported denoiser takes and makes, read from its ONNX file."""

import math
from collections.abc import Mapping
from pathlib import Path

import onnx

from ptq_export.engines.base import Signature
from ptq_export.errors import InputError
from ptq_export.graph.single_file import read_proto
from ptq_export.interface import CLASSES, INPUTS, TRAIN_TIMESTEPS

__all__ = ["read_signature"]

LARGEST_SAMPLE = 1 << 28
"""Numbers in one sample: a gigabyte of float32."""
LARGEST_COUNT = 10**7


def read_signature(source: Path, batch: int | None = None) -> Signature:
    """The signature of `source`, for one batch size where it is built for that.

    Raises:
        InputError: it is no ONNX file, or not a denoiser.
    """
    model = read_proto(source)
    inputs = {value.name: _shape(value) for value in model.graph.input}
    shape = inputs.get("sample", []) if set(inputs) in (set(INPUTS), set(INPUTS[:2])) else []
    channels, height, width = shape[1:] if len(shape) == 4 else (None, None, None)
    if not (isinstance(channels, int) and isinstance(height, int) and isinstance(width, int)):
        described = ", ".join(f"{name} {sizes}" for name, sizes in inputs.items())
        raise InputError(f"{source.name} is not a denoiser of (sample, timestep): it takes {described or 'nothing'}")
    outputs = [_shape(value) for value in model.graph.output]
    if min(channels, height, width) < 1 or math.prod((channels, height, width)) > LARGEST_SAMPLE or not outputs:
        raise InputError(f"{source.name} takes samples of {channels}x{height}x{width} and makes {len(outputs)} outputs")
    stated = {item.key: item.value for item in model.metadata_props}
    steps, classes = (_count(stated, key, source) for key in (TRAIN_TIMESTEPS, CLASSES))
    if ("label" in inputs) != (classes is not None):
        raise InputError(f"{source.name} takes labels and does not say how many, or the reverse", "export it again")
    fixed = shape[0] if isinstance(shape[0], int) else batch
    made = outputs[0][1] if len(outputs[0]) == 4 else channels
    return Signature((channels, height, width), made if isinstance(made, int) else channels, fixed, steps, classes)


def _count(stated: Mapping[str, str], key: str, source: Path) -> int | None:
    """A count among the metadata."""
    if key not in stated:
        return None
    text = stated[key]
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= LARGEST_COUNT):
        raise InputError(f"{source.name} says {key} = {text[:40]!r}, which is no count", "export it again")
    return int(text)


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    """Sizes; those that are open by name."""
    return [size.dim_value or size.dim_param for size in value.type.tensor_type.shape.dim]
