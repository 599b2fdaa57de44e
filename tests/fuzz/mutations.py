"""How a valid file is changed: bytes of any file, and fields of JSON, by hypothesis so that what fails gets small."""

import json
from collections.abc import Iterator
from typing import Any

from hypothesis import strategies as st

__all__ = ["mutated"]

PLACE = "\u0001the value"
VALUES = [
    *("null", "true", "false", "0", "-0.0", "1", "-1", "2", "0.5", "1e-320", "1e308", "-1e308", "1e999", "NaN"),
    *("-Infinity", str(2**31), str(2**63), str(-(2**64)), "9" * 5000, "[]", "{}", "[[]]", "[null]", '{"a": 1}'),
    *("[" * 100_000, '{"a":' * 5000 + "1" + "}" * 5000, '""', '"x"', '"../../../etc/passwd"', '"/dev/zero"'),
    *(
        '"' + "long " * 5000 + '"',
        '"\\ud800"',
        '"\\u0000"',
        '"\\u001b]0;x\\u0007"',
        '"pytest:main"',
        '{"a": 1, "a": 2}',
    ),
]
NUMBERS = [b"\0", b"\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\0" * 8, b"\x80" * 10, b"9" * 30]


@st.composite
def mutated(draw: st.DrawFn, content: bytes, is_json: bool) -> bytes:
    """The content of a file after one change, or a few."""
    if is_json and draw(st.integers(0, 3)):
        return _json(draw, content)
    for _ in range(draw(st.integers(1, 4))):
        content = _bytes(draw, content)
    return content


def _json(draw: st.DrawFn, content: bytes) -> bytes:
    value = json.loads(content)
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(value))
        owner, key = places[draw(st.integers(0, len(places) - 1))]
        kind = draw(st.integers(0, 9))
        if kind == 0:
            del owner[key]
        elif kind == 1 and isinstance(owner, dict):
            owner[draw(st.sampled_from(["x", "", "../a", "schema", "\u001b[2J", "a.b"]))] = owner.pop(key)
        elif kind == 2 and isinstance(owner[key], str | int | float):
            owner[key] = draw(st.one_of(st.integers(-5, 5), st.floats(-1e6, 1e6), st.text(max_size=5)))
        else:
            owner[key] = f"{PLACE}{draw(st.integers(0, len(VALUES) - 1))}"
    text = json.dumps(value)
    for index, raw in enumerate(VALUES):
        text = text.replace(json.dumps(f"{PLACE}{index}"), raw)
    return text.encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every field and item, as its owner and its key there."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield value, key
        yield from _places(item)


def _bytes(draw: st.DrawFn, content: bytes) -> bytes:
    at = draw(st.integers(0, len(content)))
    kind = draw(st.integers(0, 5))
    if kind == 0:
        return content[:at]
    if kind == 1:
        return content[:at] + draw(st.binary(max_size=8)) + content[at:]
    if kind == 2:
        return content[:at] + content[at + draw(st.integers(1, 64)) :]
    if kind == 3:
        number = draw(st.sampled_from(NUMBERS))
        return content[:at] + number + content[at + len(number) :]
    if kind == 4:
        other = draw(st.integers(0, len(content)))
        return content[:at] + content[other : other + 64] + content[at + 64 :]
    flipped = bytes([content[at] ^ (1 << draw(st.integers(0, 7)))]) if at < len(content) else b""
    return content[:at] + flipped + content[at + 1 :]
