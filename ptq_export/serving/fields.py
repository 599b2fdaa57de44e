"""The fields of a request, read one by one: each is what it must be, or refused by its name."""

from collections.abc import Mapping
from typing import Any

__all__ = [
    "MOST_GUIDANCE",
    "MOST_PROMPT",
    "FieldError",
    "Fields",
    "boolean",
    "choice",
    "integer",
    "mapping",
    "number",
    "words",
]

MOST_GUIDANCE = 1e4
MOST_PROMPT = 32_000
"""Characters, as many as OpenAI takes; a text encoder reads fewer."""

Fields = Mapping[str, Any]


class FieldError(Exception):
    """A field that cannot be used, told as OpenAI tells it."""

    def __init__(self, message: str, param: str | None = None, code: str = "invalid_value", status: int = 400) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.status = message, param, code, status


def integer(fields: Fields, name: str, default: int, least: int, most: int) -> int:
    """A whole number in least..most."""
    value = fields.get(name, default)
    if isinstance(value, float) and value.is_integer():  # JSON has one kind of number
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise FieldError(f"{name} must be an integer in {least}..{most}", name)
    return value


def number(fields: Fields, name: str) -> float | None:
    """A number that guidance may have; None where there is none."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= MOST_GUIDANCE:
        raise FieldError(f"{name} must be a number in -{MOST_GUIDANCE:g}..{MOST_GUIDANCE:g}", name)
    return float(value)


def boolean(fields: Fields, name: str) -> bool:
    """True or false; false where it is absent."""
    value = fields.get(name, False)
    if not isinstance(value, bool):
        raise FieldError(f"{name} must be true or false", name)
    return value


def choice(fields: Fields, name: str, known: tuple[str, ...], default: str) -> str:
    """One of `known`."""
    value = fields.get(name, default)
    if not isinstance(value, str) or value not in known:
        raise FieldError(f"{name} must be one of {', '.join(known)}", name)
    return value


def mapping(fields: Fields, name: str) -> dict[str, Any] | None:
    """Values by the names of conditions; None where there are none."""
    value = fields.get(name)
    if value is not None and not isinstance(value, dict):
        raise FieldError(f"{name} must be an object: a value by the name of each condition", name)
    return value


def words(fields: Fields, name: str) -> str | None:
    """Text of a prompt; None where there is none."""
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > MOST_PROMPT:
        raise FieldError(f"{name} must be text of at most {MOST_PROMPT} characters", name)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise FieldError(f"{name} is no text: it holds half of a surrogate pair", name) from error
    return value
