"""What an exported denoiser takes and makes, read from its ONNX file; its weights are not."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import onnx

from ptq_export.engines.base import Signature
from ptq_export.errors import InputError
from ptq_export.graph.model_file import read_proto
from ptq_export.graph.prompt_file import stated_prompt
from ptq_export.interface import INPUTS, SAMPLE, TIMESTEP, TRAIN_TIMESTEPS, DType, Input, Prompt, inputs_from_json

__all__ = ["read_signature"]

LARGEST_SAMPLE = 1 << 28
"""Numbers in one sample: a gigabyte of float32."""
LARGEST_COUNT = 10**7
TYPES: dict[DType, int] = {"float32": onnx.TensorProto.FLOAT, "int64": onnx.TensorProto.INT64}


def read_signature(source: Path, batch: int | None = None) -> Signature:
    """The signature of `source`, for one batch size where it is built for that. Its prompt graph, if it has one, is not
    looked for.

    Raises:
        InputError: it is no ONNX file, not a denoiser, or its inputs are not those that its metadata states.
    """
    model = read_proto(source)
    stated = {item.key: item.value for item in model.metadata_props}
    prompt = stated_prompt(stated, source.name)
    inputs = _inputs(model, stated, prompt, source)
    shape = tuple(size for size in inputs[0].shape if isinstance(size, int))
    outputs = [_shape(value) for value in model.graph.output]
    if len(shape) != len(inputs[0].shape) or not 2 <= len(shape) <= 4 or len(outputs) != 1:
        raise InputError(f"{source.name} takes {inputs[0]} and makes {len(outputs)} outputs", "export it again")
    if math.prod(shape) > LARGEST_SAMPLE:
        raise InputError(f"{source.name} takes samples of {'x'.join(map(str, shape))}, which is too large")
    first = next(_shape(value)[0] for value in model.graph.input if value.name == SAMPLE)
    made = outputs[0][1] if len(outputs[0]) == len(shape) + 1 else shape[0]
    channels = made if isinstance(made, int) else shape[0]
    return Signature(inputs, channels, first if isinstance(first, int) else batch, _timesteps(stated, source), prompt)


def _inputs(
    model: onnx.ModelProto, stated: Mapping[str, str], prompt: Prompt | None, source: Path
) -> tuple[Input, ...]:
    """What the denoiser takes; the limits of integers are in the metadata alone."""
    found = {value.name: value for value in model.graph.input}
    if not {SAMPLE, TIMESTEP} <= {*found}:
        takes = ", ".join(f"{name} {_shape(value)}" for name, value in found.items()) or "nothing"
        raise InputError(f"{source.name} is not a denoiser of (sample, timestep): it takes {takes}")
    if INPUTS not in stated:
        order = sorted(found, key=[SAMPLE, TIMESTEP, *found].index)
        return tuple(_as_input(found[name], source) for name in order)
    try:
        value = json.loads(stated[INPUTS])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{source.name} does not say what its inputs are: {error}", "export it again") from error
    inputs = inputs_from_json(value, source.name)
    _require_stated(inputs if prompt is None else _with_values(inputs, prompt, source), found, source)
    return inputs


def _with_values(inputs: Sequence[Input], prompt: Prompt, source: Path) -> tuple[Input, ...]:
    """What the step graph must take: values of a prompt graph in place of conditions."""
    names, values = [each.name for each in inputs], [each.name for each in prompt.values]
    if not {*prompt.instead_of} <= {*names[2:]} or {*names} & {*values}:
        told = f"takes {', '.join(values)} in place of {', '.join(prompt.instead_of)}"
        raise InputError(f"{source.name} {told}, which are no conditions of it"[:400], "export it again")
    return prompt.step_inputs(inputs)


def _as_input(value: onnx.ValueInfoProto, source: Path) -> Input:
    kinds = {number: name for name, number in TYPES.items()}
    kind = kinds.get(value.type.tensor_type.elem_type)
    if kind is None:
        raise InputError(
            f"{source.name} takes {value.name} of a type that is neither float32 nor int64", "export it again"
        )
    return Input(value.name, kind, tuple(_shape(value)[1:]))


def _require_stated(inputs: Sequence[Input], found: Mapping[str, onnx.ValueInfoProto], source: Path) -> None:
    """Refuse a graph whose inputs are others than its metadata says: what is fed by name must be what it is."""
    for each in inputs:
        value = found.get(each.name)
        sizes = [] if value is None else _shape(value)[1:]
        same = len(sizes) == len(each.shape) and all(
            size == wanted or not isinstance(wanted, int) for size, wanted in zip(sizes, each.shape, strict=True)
        )
        if value is None or not same or value.type.tensor_type.elem_type != TYPES[each.dtype]:
            raise InputError(f"{source.name} states an input {each} that its graph does not have", "export it again")
    if surplus := sorted({*found} - {each.name for each in inputs}):
        raise InputError(f"{source.name} has inputs that it does not state: {', '.join(surplus)}", "export it again")


def _timesteps(stated: Mapping[str, str], source: Path) -> int | None:
    """T, where it is stated."""
    if TRAIN_TIMESTEPS not in stated:
        return None
    text = stated[TRAIN_TIMESTEPS]
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and 1 <= int(text) <= LARGEST_COUNT):
        raise InputError(f"{source.name} says {TRAIN_TIMESTEPS} = {text[:40]!r}, which is no count", "export it again")
    return int(text)


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    """Sizes; those that are open by name."""
    return [size.dim_value or size.dim_param for size in value.type.tensor_type.shape.dim]
