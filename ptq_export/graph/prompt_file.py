"""A denoiser on disk as two graphs: `name.onnx`, which runs at every step, and beside it `name.prompt.onnx`, which
computes once per prompt what the former takes in place of conditions.

The step graph states the sha256 of the other file: whoever has verified the one has verified both.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from ptq_export.artifacts import data_beside, prompt_beside, require_regular, sha256_file
from ptq_export.errors import InputError
from ptq_export.graph.model_file import load_model, read_proto, save_model
from ptq_export.graph.passes.split_conditions import join_conditions, split_conditions
from ptq_export.graph.passes.strip_metadata import OWN_PREFIX
from ptq_export.interface import (
    INPUTS,
    PROMPT,
    Input,
    Prompt,
    inputs_from_json,
    inputs_to_json,
    prompt_from_json,
    prompt_to_json,
    values_from_json,
)

__all__ = ["load_whole", "prompt_inputs", "require_prompt", "save_split", "stated_prompt", "whole_file"]

REMEDY = "copy both files again, or export it again"


def prompt_inputs(path: Path) -> tuple[Input, ...]:
    """The conditions that a prompt graph reads, as its file states them.

    Raises:
        InputError: it is no ONNX file, or does not say.
    """
    stated = {item.key: item.value for item in read_proto(path).metadata_props}
    try:
        return values_from_json(json.loads(stated[INPUTS]), path.name)
    except (KeyError, ValueError, RecursionError) as error:
        raise InputError(f"{path.name} does not say what its inputs are: {error!r}", "export it again") from error


def save_split(model: ir.Model, path: Path) -> Path:
    """Write the step graph of `model` to `path` and its prompt graph beside it; whole, as `save_model` does, where
    conditions alone decide nothing that is worth it. Returns `path`.

    Raises:
        InputError: the folder cannot be written.
    """
    parts, beside = split_conditions(model), prompt_beside(path)
    if parts is None:
        for old in (beside, data_beside(beside)):
            old.unlink(missing_ok=True)
        return save_model(model, path)
    step, prompt = parts
    inputs = _inputs(model.metadata_props, path)
    read = [it for it in inputs if it.name in {value.name for value in prompt.graph.inputs}]
    prompt.metadata_props.update(
        {key: text for key, text in model.metadata_props.items() if key.startswith(OWN_PREFIX)}
    )
    prompt.metadata_props[INPUTS] = json.dumps(inputs_to_json(read))
    save_model(prompt, beside)
    taken = {value.name for value in step.graph.inputs}
    instead_of = tuple(it.name for it in inputs if it.name not in taken)
    stated = Prompt(tuple(map(_as_input, prompt.graph.outputs)), instead_of, sha256_file(beside))
    step.metadata_props[PROMPT] = json.dumps(prompt_to_json(stated))
    return save_model(step, path)


def stated_prompt(metadata: Mapping[str, str], where: str) -> Prompt | None:
    """What a graph's metadata says of its prompt graph; None where it has none.

    Raises:
        InputError: what it says is damaged.
    """
    if PROMPT not in metadata:
        return None
    try:
        value = json.loads(metadata[PROMPT])
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} does not say what its prompt graph is: {error}", "export it again") from error
    return prompt_from_json(value, where)


def require_prompt(path: Path, prompt: Prompt) -> Path:
    """The file with the prompt graph that the step graph `path` states.

    Raises:
        InputError: it is absent, no regular file, or another than was stated.
    """
    beside = prompt_beside(path)
    if not beside.exists():
        raise InputError(f"{beside} is not there: {path.name} takes what it computes once per prompt", REMEDY)
    require_regular(beside)
    try:
        found = sha256_file(beside)
    except OSError as error:
        raise InputError(f"{beside} cannot be read: {error.strerror}", "make it readable") from error
    if found != prompt.sha256:
        told = f"{beside} is damaged, or another graph's: its sha256 is not the one in {path.name}"
        raise InputError(told, REMEDY)
    return beside


def load_whole(path: Path) -> ir.Model:
    """The whole network, be it in one graph or in two.

    Raises:
        InputError: a file is absent or damaged, or they do not belong together.
    """
    return _joined(load_model(path), path)


def whole_file(path: Path, folder: Path) -> Path:
    """A file with the whole network, for programs that read one: `path` itself, or what is written to `folder`.

    Raises:
        InputError: as `load_whole`.
    """
    step = load_model(path)
    return path if PROMPT not in step.metadata_props else save_model(_joined(step, path), folder / path.name)


def _joined(step: ir.Model, path: Path) -> ir.Model:
    """The graph of the file `path`, with its prompt graph in it if it has one."""
    prompt = stated_prompt(step.metadata_props, path.name)
    if prompt is None:
        return step
    part = load_model(require_prompt(path, prompt))
    try:
        whole = join_conditions(step, part)
        order = [it.name for it in _inputs(whole.metadata_props, path)]
        whole.graph.inputs[:] = sorted(whole.graph.inputs, key=lambda value: order.index(str(value.name)))
    except Exception as error:  # whatever onnx-ir stumbles over: it expects two valid graphs
        told = f"{type(error).__name__}: {error}".partition("\n")[0][:200]
        raise InputError(f"{path.name} and {prompt_beside(path).name} are no graph: {told}", REMEDY) from error
    del whole.metadata_props[PROMPT]
    return whole


def _inputs(metadata: Mapping[str, str], path: Path) -> tuple[Input, ...]:
    return inputs_from_json(json.loads(metadata[INPUTS]), path.name)


def _as_input(value: ir.Value) -> Input:
    sizes = list(value.shape or [])[1:]
    return Input(str(value.name), "float32", tuple(it if isinstance(it, int) else str(it.value) for it in sizes))
