"""A value by its name; an unknown name is refused with the known ones and the nearest."""

import difflib
from collections.abc import Mapping
from typing import TypeVar

from ptq_export.errors import InputError

__all__ = ["lookup"]

Value = TypeVar("Value")


def lookup(kind: str, name: str, entries: Mapping[str, Value]) -> Value:
    """`entries[name]`.

    Raises:
        InputError: no such entry.
    """
    if name in entries:
        return entries[name]
    near = difflib.get_close_matches(name, entries, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}? " if near else ""
    raise InputError(f"unknown {kind} {name!r}", f"{hint}known: {', '.join(sorted(entries))}")
