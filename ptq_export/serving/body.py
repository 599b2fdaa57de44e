"""The body of `POST /v1/images/generations`, OpenAI's form and what is ours, field by field."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, cast, get_args

from ptq_export.errors import InputError
from ptq_export.interface import LABEL
from ptq_export.schedulers import SAMPLERS
from ptq_export.serving.request import Generation, Subject

__all__ = [
    "FIELDS",
    "IGNORED",
    "MOST_GUIDANCE",
    "MOST_PICTURES",
    "MOST_SEED",
    "Asked",
    "FieldError",
    "Format",
    "Preview",
    "fields_of",
    "parse",
]

Format = Literal["b64_json", "png", "npy"]
Preview = Literal["estimate", "sample"]
"""What a preview shows: x_0 as the network guesses it, or x_t as it stands."""

MOST_PICTURES = 10
MOST_SEED = 2**63 - 1
IGNORED = ("background", "moderation", "quality", "style", "user")
"""What OpenAI's clients send and nothing here depends on."""

FIELDS = (
    *("class", "conditions", "guidance", "model", "n", "output_format", "partial_images", "preview", "prompt"),
    *("response_format", "sampler", "seed", "size", "steps", "stream", "unconditional", *IGNORED),
)


class FieldError(Exception):
    """A field that cannot be used, told as OpenAI tells it."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value", status: int = 400) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status


@dataclass(frozen=True)
class Asked:
    """A whole request: its pictures, and how they are answered. `partial_images` previews of each are streamed."""

    pictures: tuple[Generation, ...]
    format: Format
    stream: bool
    partial_images: int
    preview: Preview = "estimate"


def fields_of(content: bytes) -> dict[str, Any]:
    """The JSON object in a body.

    Raises:
        FieldError: it is none, or holds NaN or infinite numbers, or a field that is not known.
    """
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is one
        raise FieldError(f"the body is no JSON: {str(error)[:200]}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise FieldError("the body is no JSON object", code="invalid_json")
    for name in value:
        if name not in FIELDS:
            near = difflib.get_close_matches(name, FIELDS, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            known = f"known: {', '.join(FIELDS)}"
            raise FieldError(f"there is no field {name[:80]!r}{hint} {known}", name[:80], "unknown_parameter")
    return {name: each for name, each in value.items() if each is not None}


def parse(fields: Mapping[str, Any], subject: Subject, drawn_seed: int) -> Asked:
    """The request in these fields; `drawn_seed` serves where none is given. Picture i of several has seed + i.

    Raises:
        FieldError: with the field and what it may be.
    """
    if fields.get("prompt") not in (None, ""):
        told = "this engine takes no text: give `class` or `conditions`, and an empty prompt or none"
        raise FieldError(told, "prompt")
    _choice(fields, "output_format", ("png",), "png")
    _check_size(fields, subject)
    count = _integer(fields, "n", 1, 1, MOST_PICTURES)
    seed = _integer(fields, "seed", drawn_seed, 0, MOST_SEED)
    given = {
        "steps": _integer(fields, "steps", 20, 1, subject.schedule.num_train_timesteps),
        "sampler": _choice(fields, "sampler", tuple(SAMPLERS), subject.schedule.sampler),
        "conditions": _conditions(fields, subject),
        "guidance": _number(fields, "guidance"),
        "unconditional": _mapping(fields, "unconditional"),
    }
    stream = _boolean(fields, "stream")
    form = cast(Format, _choice(fields, "response_format", get_args(Format), "b64_json"))
    if stream and form != "b64_json":
        raise FieldError("a stream of events holds b64_json", "response_format")
    if form == "png" and count > 1:
        raise FieldError("response_format png answers one picture", "n")
    previews = _integer(fields, "partial_images", 0, 0, subject.schedule.num_train_timesteps)
    shown = cast(Preview, _choice(fields, "preview", get_args(Preview), "estimate"))
    pictures = tuple(_generation(subject, (seed + index) % (MOST_SEED + 1), given) for index in range(count))
    return Asked(pictures, form, stream, previews, shown)


def _generation(subject: Subject, seed: int, given: dict[str, Any]) -> Generation:
    try:
        return subject.generation(seed=seed, **given)
    except InputError as error:
        raise FieldError(error.in_one_line[:1000], _blamed(str(error), subject)) from error


def _blamed(message: str, subject: Subject) -> str | None:
    """The field that an error of the engine or of a sampler is about."""
    names = [each.name for each in subject.signature.conditions if each.name in message]
    if LABEL in names:
        return "class"
    if "guidance" in message or "unconditional" in message:
        return "unconditional"
    return "conditions" if names or "input" in message else "steps"


def _conditions(fields: Mapping[str, Any], subject: Subject) -> dict[str, Any]:
    found = dict(_mapping(fields, "conditions") or {})
    if LABEL in found:
        raise FieldError("a class is given as `class`, beside conditions", "conditions")
    if "class" not in fields:
        return found
    if subject.classes is None:
        raise FieldError("this engine has no classes", "class")
    return found | {LABEL: _integer(fields, "class", 0, 0, subject.classes - 1)}


def _check_size(fields: Mapping[str, Any], subject: Subject) -> None:
    """OpenAI's WIDTHxHEIGHT; the engine has one."""
    _, *sides = subject.signature.sample_shape
    known = "x".join(map(str, reversed(sides)))
    if fields.get("size", "auto") not in ("auto", known):
        raise FieldError(f"size: this engine draws {known}", "size")


def _integer(fields: Mapping[str, Any], name: str, default: int, least: int, most: int) -> int:
    value = fields.get(name, default)
    if isinstance(value, float) and value.is_integer():  # JSON has one kind of number
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise FieldError(f"{name} must be an integer in {least}..{most}", name)
    return value


def _number(fields: Mapping[str, Any], name: str) -> float | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= MOST_GUIDANCE:
        raise FieldError(f"{name} must be a number in -{MOST_GUIDANCE:g}..{MOST_GUIDANCE:g}", name)
    return float(value)


MOST_GUIDANCE = 1e4


def _boolean(fields: Mapping[str, Any], name: str) -> bool:
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise FieldError(f"{name} must be true or false", name)
    return value


def _choice(fields: Mapping[str, Any], name: str, known: tuple[str, ...], default: str) -> str:
    value = fields.get(name, default)
    if not isinstance(value, str) or value not in known:
        raise FieldError(f"{name} must be one of {', '.join(known)}", name)
    return value


def _mapping(fields: Mapping[str, Any], name: str) -> dict[str, Any] | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, dict):
        raise FieldError(f"{name} must be an object: a value by the name of each condition", name)
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")
