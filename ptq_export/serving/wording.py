"""What a request asks for in words, and how that goes with conditions that are given by hand."""

from dataclasses import dataclass
from typing import Any

from ptq_export.serving.encoding import Encode
from ptq_export.serving.fields import FieldError, Fields, mapping, number, words
from ptq_export.text_to_image import TextParts

__all__ = ["NEGATIVE", "Wording", "encoded_wording", "wording_of"]

NEGATIVE = "negative_prompt"


@dataclass(frozen=True)
class Wording:
    """A prompt, what guidance leads away from, and its scale: 1 for none."""

    prompt: str
    negative: str
    scale: float


def wording_of(fields: Fields, parts: TextParts | None) -> Wording | None:
    """The words of a request to an engine with these `parts`; None where it takes none, or its conditions are given by
    hand.

    OpenAI's clients cannot leave out a prompt: an empty one beside conditions counts as none.

    Raises:
        FieldError: words for an engine that takes none, none for one that does, or words and what they decide.
    """
    if parts is None:
        _require_none(fields)
        return None
    prompt, negative, scale = words(fields, "prompt"), words(fields, NEGATIVE), number(fields, "guidance")
    made = parts.conditions
    if by_hand := [name for name in made if name in (mapping(fields, "conditions") or {})]:
        if prompt or negative:
            told = f"{', '.join(by_hand)} is what the prompt decides: give the prompt or the condition"
            raise FieldError(told, "prompt" if prompt else NEGATIVE)
        return None
    if prompt is None:
        told = f"this engine takes text: give `prompt`, or the condition {', '.join(made)}"
        raise FieldError(told, "prompt", "missing_required_parameter")
    if "unconditional" in fields:
        raise FieldError(f"with a prompt, guidance leads away from `{NEGATIVE}`", "unconditional")
    scale = parts.scale if scale is None else scale
    if negative and scale == 1:
        raise FieldError("there is no guidance to lead away from it: give `guidance`, other than 1", NEGATIVE)
    return Wording(prompt, negative or "", scale)


def encoded_wording(wording: Wording, encode: Encode) -> tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]:
    """The conditions of a prompt, its guidance, and the fields that were cut."""
    texts = {"prompt": wording.prompt} | ({} if wording.scale == 1 else {NEGATIVE: wording.negative})
    found = {name: encode(text) for name, text in texts.items()}
    away = found.get(NEGATIVE)
    guidance = {} if away is None else {"guidance": wording.scale, "unconditional": away.rows}
    return dict(found["prompt"].rows), guidance, tuple(name for name, each in found.items() if each.was_cut)


def _require_none(fields: Fields) -> None:
    for name in ("prompt", NEGATIVE):
        if fields.get(name) not in (None, ""):
            told = "this engine takes no text: give its class or conditions, and an empty prompt or none"
            raise FieldError(told, name)
