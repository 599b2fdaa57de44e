"""The body of `POST /v1/images/generations`, OpenAI's form and what is ours, field by field."""

import difflib
import json
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, cast, get_args

from ptq_export.errors import InputError
from ptq_export.interface import LABEL
from ptq_export.schedulers import SAMPLERS
from ptq_export.serving.fields import FieldError, Fields, boolean, choice, integer, mapping, number
from ptq_export.serving.request import Generation, Subject
from ptq_export.serving.wording import encoded_wording, wording_of

__all__ = [
    "FIELDS",
    "IGNORED",
    "MOST_PICTURES",
    "MOST_SEED",
    "NEVER_NULL",
    "Asked",
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
NEVER_NULL = ("conditions", "guidance", "unconditional")
"""Fields on whose presence others depend. Of all others null means absence, as OpenAI's clients have it."""
IGNORED = ("background", "moderation", "quality", "style", "user")
"""What OpenAI's clients send and nothing here depends on."""

FIELDS = (
    *("class", "conditions", "guidance", "model", "n", "negative_prompt", "output_format", "partial_images", "preview"),
    *("prompt", "response_format", "sampler", "seed", "size", "steps", "stream", "unconditional", *IGNORED),
)


@dataclass(frozen=True)
class Asked:
    """A whole request: its pictures, and how they are answered. `partial_images` previews of each are streamed; `cut`
    names the fields whose text was longer than the text encoder takes."""

    pictures: tuple[Generation, ...]
    format: Format
    stream: bool
    partial_images: int
    preview: Preview = "estimate"
    cut: tuple[str, ...] = ()


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
        if value[name] is None and name in NEVER_NULL:
            raise FieldError(f"{name} must not be null: leave it out", name)
    return {name: each for name, each in value.items() if each is not None}


def parse(fields: Fields, subject: Subject, drawn_seed: int) -> Asked:
    """The request in these fields; `drawn_seed` serves where none is given. Picture i of several has seed + i.

    What is said in words is encoded here: it takes its time.

    Raises:
        FieldError: with the field and what it may be.
    """
    wording = wording_of(fields, None if subject.encoding is None else subject.encoding.parts)
    choice(fields, "output_format", ("png",), "png")
    _check_size(fields, subject)
    count = integer(fields, "n", 1, 1, MOST_PICTURES)
    seed = integer(fields, "seed", drawn_seed, 0, MOST_SEED)
    given: dict[str, Any] = {
        "steps": integer(fields, "steps", 20, 1, subject.schedule.num_train_timesteps),
        "sampler": choice(fields, "sampler", tuple(SAMPLERS), subject.schedule.sampler),
    }
    conditions = _conditions(fields, subject)
    guidance = {"guidance": number(fields, "guidance"), "unconditional": mapping(fields, "unconditional")}
    stream = boolean(fields, "stream")
    form = cast(Format, choice(fields, "response_format", get_args(Format), "b64_json"))
    if stream and form != "b64_json":
        raise FieldError("a stream of events holds b64_json", "response_format")
    if form == "png" and count > 1:
        raise FieldError("response_format png answers one picture", "n")
    previews = integer(fields, "partial_images", 0, 0, subject.schedule.num_train_timesteps)
    shown = cast(Preview, choice(fields, "preview", get_args(Preview), "estimate"))
    cut: tuple[str, ...] = ()
    if wording is not None and subject.encoding is not None:
        encoded, guidance, cut = encoded_wording(wording, subject.encoding)
        conditions |= encoded
    given |= {"conditions": conditions, **guidance}
    pictures = tuple(_generation(subject, (seed + index) % (MOST_SEED + 1), given) for index in range(count))
    return Asked(pictures, form, stream, previews, shown, cut)


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


def _conditions(fields: Fields, subject: Subject) -> dict[str, Any]:
    found = dict(mapping(fields, "conditions") or {})
    if LABEL in found:
        raise FieldError("a class is given as `class`, beside conditions", "conditions")
    if surplus := sorted({*found} - {each.name for each in subject.signature.conditions}):  # be their values null
        raise FieldError(f"this engine has no condition {', '.join(map(repr, surplus))}"[:400], "conditions")
    if "class" not in fields:
        return found
    if subject.classes is None:
        raise FieldError("this engine has no classes", "class")
    return found | {LABEL: integer(fields, "class", 0, 0, subject.classes - 1)}


def _check_size(fields: Fields, subject: Subject) -> None:
    """The engine has one."""
    if fields.get("size", "auto") not in ("auto", subject.size):
        raise FieldError(f"size: this engine draws {subject.size}", "size")


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")
