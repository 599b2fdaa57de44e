"""The model `sampler` of a repository: its program, what that reads beside itself, and what requests to it hold."""

from collections.abc import Sequence
from pathlib import Path

from ptq_export.command_options import Packaging
from ptq_export.errors import InputError
from ptq_export.graph.part_file import part_interface
from ptq_export.interface import LABEL, SAMPLE, Input, prompt_to_json
from ptq_export.packaging.folder import same_examples
from ptq_export.packaging.parts import Parts
from ptq_export.packaging.triton.config import Tensor, instance, model_config, parameters, tensor_of
from ptq_export.packaging.triton.drawing import shows_images
from ptq_export.packaging.triton.wish import UNCONDITIONAL
from ptq_export.packaging.triton.writing import PYTHON, write_config, write_program
from ptq_export.pipeline.commands.reopened import read_schedule
from ptq_export.text_to_image import DECODER

__all__ = ["SAMPLER_MODEL", "condition_rows", "image_of", "refuse_settings", "write_sampler"]

SAMPLER_MODEL = "sampler"
MOST_REQUESTS = 64
CUT = "cut"
DECOUPLED = "model_transaction_policy {\n  decoupled: true\n}"


def write_sampler(parts: Parts, folder: Path, packaging: Packaging, models: dict[str, str]) -> None:
    """Write the sampler, which asks `models`, their names by what they are to it."""
    prompt = parts.signature.prompt
    stated = {} if prompt is None else {"prompt": prompt_to_json(prompt)}
    reads = {"prompt_reads": [each.name for each in parts.prompt_inputs]} if prompt is not None else {}
    decodes = {"decodes": True} if DECODER in parts.around else {}
    place = folder / SAMPLER_MODEL / "1"
    parts.copy(parts.tokenizers, place)
    told = stated | reads | decodes | same_examples(parts)
    parts.write_manifest(place, format=packaging.format, engine=packaging.engine, **told)
    write_program(folder, SAMPLER_MODEL, "sampler")
    inputs = [*_settings(), *_conditions(parts)]
    named = {f"{what}_model": model for what, model in models.items()} | {"most_requests": str(MOST_REQUESTS)}
    blocks = (DECOUPLED, instance("KIND_CPU"), parameters(named))
    write_config(folder, SAMPLER_MODEL, model_config(SAMPLER_MODEL, PYTHON, 0, inputs, _outputs(parts), *blocks))


def refuse_settings(conditions: Sequence[Input]) -> None:
    """Refuse conditions that are called as a setting is.

    Raises:
        InputError: with their names.
    """
    if taken := {each.name for each in _settings()} & {each.name for each in conditions}:
        told = f"the network has a condition {', '.join(sorted(taken))}, and so is called a setting of the sampler"
        raise InputError(told, "call it something else in the checkpoint's factory")


def image_of(parts: Parts) -> Tensor | None:
    """The output with pixels, where samples are images or there is a decoder of them."""
    shape: Sequence[int | str] = parts.signature.sample_shape
    if DECODER in parts.around:
        _, [decoded] = part_interface(parts.run / DECODER)
        shape = decoded.shape
    elif not shows_images(parts.signature.sample_shape, read_schedule(parts.manifest, parts.run)):
        return None
    channels, *sides = (-1 if isinstance(size, str) else size for size in shape)
    return Tensor("image", "UINT8", (*sides, channels))


def condition_rows(parts: Parts) -> str:
    """The rows of the page on conditions."""
    spared = _spared(parts)
    return "\n".join(
        f"| `{it.name}` | {it.dtype} {list(tensor_of(it).dims)} | {spared.get(it.name, _told(it))} |"
        for it in parts.signature.conditions
    )


def _outputs(parts: Parts) -> list[Tensor]:
    image = image_of(parts)
    return [
        Tensor(SAMPLE, "FP32", parts.signature.sample_shape),
        *([] if image is None else [image]),
        *(Tensor(name, "INT32", (1,)) for name in ("step", "steps")),
        Tensor("seed", "INT64", (1,)),
        *([] if parts.text is None else [Tensor(CUT, "INT32", (2,))]),
    ]


def _settings() -> list[Tensor]:
    """What every sampler is told; each may be left out. Text (the name of the sampler, prompts) is a parameter of the
    request: Triton before 24.12 dies of text for the Python backend beside numpy 2."""
    kinds = {"seed": "INT64", "steps": "INT32", "guidance": "FP32", "preview": "INT32"}
    return [Tensor(name, kind, (1,), optional=True) for name, kind in kinds.items()]


def _conditions(parts: Parts) -> list[Tensor]:
    """The conditions of one picture, and what guidance takes in their place."""
    spared, found = _spared(parts), [tensor_of(each) for each in parts.signature.conditions]
    given = [Tensor(it.name, it.kind, it.sizes, optional=it.name in spared) for it in found]
    away = [Tensor(f"{UNCONDITIONAL}{it.name}", it.kind, it.sizes, optional=True) for it in found]
    return [*given, *away]


def _spared(parts: Parts) -> dict[str, str]:
    """Conditions that need not be given, and why."""
    made = () if parts.text is None else parts.text.conditions
    known = same_examples(parts).get("examples", {})
    return dict.fromkeys(known, "if absent, as in calibration") | dict.fromkeys(made, "in place of a prompt")


def _told(condition: Input) -> str:
    known = f"0..{condition.limit - 1}" if condition.limit is not None else "a condition"
    return f"the class, {known}" if condition.name == LABEL else known
