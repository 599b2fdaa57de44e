"""Checks of JSON values, put together like the values themselves: `record({"name": text(), "size?": whole(0)})`.

A check is called with a value and its place (`steps[0].batch`), and raises `Refused` with both.
"""

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

__all__ = [
    "LARGEST",
    "Check",
    "Refused",
    "anything",
    "flag",
    "items",
    "named",
    "null_or",
    "number",
    "one_of",
    "record",
    "text",
    "whole",
]

Check: TypeAlias = Callable[[Any, str], None]
LARGEST = 1e15
_KINDS = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}


class Refused(Exception):
    """A value is not what its place may hold."""


def anything() -> Check:
    """Every value."""
    return lambda value, where: None


def text() -> Check:
    """Text."""
    return lambda value, where: _require(isinstance(value, str), value, where, "text")


def flag() -> Check:
    """True or false."""
    return lambda value, where: _require(isinstance(value, bool), value, where, "true or false")


def one_of(*values: Any) -> Check:
    """One of these, of the same type too."""
    wanted = " or ".join(map(repr, values))
    known = {(type(value), value) for value in values}

    def check(value: Any, where: str) -> None:
        hashable = isinstance(value, str | int | float) or value is None
        _require(hashable and (type(value), value) in known, value, where, wanted)

    return check


def number(low: float = -LARGEST, high: float = LARGEST) -> Check:
    """A number from `low` to `high`."""

    def check(value: Any, where: str) -> None:
        _require(type(value) in (int, float) and low <= value <= high, value, where, f"a number of {low:g}..{high:g}")

    return check


def whole(low: float, high: float = LARGEST) -> Check:
    """An integer from `low` to `high`."""

    def check(value: Any, where: str) -> None:
        _require(type(value) is int and low <= value <= high, value, where, f"an integer of {low}..{high:g}")

    return check


def null_or(inner: Check) -> Check:
    """Null, or what `inner` takes."""
    return lambda value, where: None if value is None else inner(value, where)


def items(inner: Check, least: int = 0, most: int = 1 << 25) -> Check:
    """A list of `least` to `most` values."""

    def check(value: Any, where: str) -> None:
        sized = isinstance(value, list) and least <= len(value) <= most
        _require(sized, value, where, f"a list of {least} to {most} items")
        for index, item in enumerate(value):
            inner(item, f"{where}[{index}]")

    return check


def named(inner: Check, least: int = 0) -> Check:
    """An object of any names, at least so many."""

    def check(value: Any, where: str) -> None:
        _require(isinstance(value, dict) and len(value) >= least, value, where, f"an object of {least} or more fields")
        for name, item in value.items():
            inner(item, f"{where}.{name[:80]}")

    return check


def record(parts: Mapping[str, Check]) -> Check:
    """An object of these fields; `name?` may be absent, and others are not looked at."""

    def check(value: Any, where: str) -> None:
        _require(isinstance(value, dict), value, where, "an object")
        for name, inner in parts.items():
            key = name.removesuffix("?")
            if key in value:
                inner(value[key], f"{where}.{key}".removeprefix("."))
            elif key == name:
                raise Refused(f"{where}.{key} is absent".removeprefix("."))

    return check


def _require(holds: bool, value: object, where: str, wanted: str) -> None:
    if not holds:
        shown = repr(value)[:40] if isinstance(value, str | bool | int | float) else _KINDS.get(type(value), "null")
        raise Refused(f"{where or 'it'} is {shown}, not {wanted}")
