"""What a checkpoint's tensors do not tell and the user may: `--assume KEY=VALUE`, checked against a format's keys."""

import re
from collections.abc import Mapping
from types import MappingProxyType

from ptq_export.errors import InputError

__all__ = ["NOTHING", "NUMBER", "Assumable", "check_assumptions"]

Assumable = Mapping[str, tuple[str, ...]]
"""The values that each key may have."""

NUMBER = ("N",)
"""Instead of values: a whole number, 1 to 99999."""

NOTHING: Mapping[str, str] = MappingProxyType({})


def check_assumptions(assume: Mapping[str, str], assumable: Assumable, what: str) -> None:
    """Refuse what `assumable` does not list; `what` names the format or the net in the message.

    Raises:
        InputError: an unknown key or a value that it cannot have; the message lists all of them.
    """
    if assume and not assumable:
        given = ", ".join(f"{key}={value}" for key, value in assume.items())
        raise InputError(f"--assume {given}: {what} leaves nothing to assume", "leave --assume out")
    remedy = "known: " + ", ".join(f"{key}={'|'.join(values)}" for key, values in assumable.items())
    for key, value in assume.items():
        if key not in assumable:
            raise InputError(f"--assume {key}={value}: {what} has no {key!r}", remedy)
        if not _is_one_of(value, assumable[key]):
            raise InputError(f"--assume {key}={value}: {value!r} is no value of {key!r}", remedy)


def _is_one_of(value: str, values: tuple[str, ...]) -> bool:
    if values is NUMBER:
        return re.fullmatch("[1-9][0-9]{0,4}", value, re.ASCII) is not None
    return value in values
