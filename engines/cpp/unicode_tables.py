"""`src/text/unicode_tables.inc`: what CLIP's tokenizers know of characters, for the C++ library.

python -m ptq_export.engines.cpp.unicode_tables > engines/cpp/src/text/unicode_tables.inc

The package `tokenizers` is asked for what it does itself: it takes each part of Unicode from another library, of its
own version. The order of combining marks, which it does not tell, is `unicodedata`'s, for the marks that it knows too.
"""

import sys
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from itertools import groupby

from tokenizers import Regex
from tokenizers.normalizers import NFC, NFD, Lowercase, Replace

__all__ = ["origin", "tables"]

SURROGATES = range(0xD800, 0xE000)
POINTS = [point for point in range(0x110000) if point not in SURROGATES]
HANGUL = range(0xAC00, 0xAC00 + 11172)
FIRST_MARK, LAST_MARK = "\u0334", "\u0345"  # of the combining classes 1, the least, and 240, the largest
CLASSES = {"kLetters": r"\p{L}", "kNumbers": r"\p{N}", "kSpaces": r"\s"}
WIDTH = 120


def origin() -> str:
    """What the tables are of."""
    return f"tokenizers {version('tokenizers')}, combining classes of Unicode {unicodedata.unidata_version}"


def tables() -> str:
    """The whole file."""
    lines = [f"// {origin()}: written by engines/cpp/unicode_tables.py."]
    for name, pattern in CLASSES.items():
        lines += _array("Range", name, _ranges(pattern))
    lines += _array("Shift", "kLower", _shifts())
    composed, single = _decompositions()
    lines += _array("Pair", "kComposed", composed)
    lines += _array("Single", "kSingle", single)
    lines += _array("Mark", "kMarks", _marks())
    return "\n".join(lines) + "\n"


def _answers(normalize: Callable[[str], str]) -> Iterator[tuple[int, str]]:
    """Of every character but the line feed what becomes of it, where it does not stay."""
    points = [point for point in POINTS if point != 0x0A]
    made = normalize("\n".join(map(chr, points))).split("\n")
    yield from ((point, text) for point, text in zip(points, made, strict=True) if text != chr(point))


def _ranges(pattern: str) -> list[tuple[int, ...]]:
    """First and last of the characters that a class holds."""
    mark = "\ue000"  # of private use: in no class
    text = "".join(map(chr, POINTS))
    made = Replace(Regex(pattern), mark).normalize_str(text)
    held = [point for point, letter in zip(POINTS, made, strict=True) if letter == mark != chr(point)]
    runs = groupby(enumerate(held), lambda each: each[1] - each[0])
    found = [[point for _, point in run] for _, run in runs]
    return [(run[0], run[-1]) for run in found]


def _shifts() -> list[tuple[int, ...]]:
    """First, last, step and distance of characters that have a lower case of one character: all but one, which C++
    knows."""
    found: list[tuple[int, ...]] = []
    for point, text in _answers(Lowercase().normalize_str):
        if len(text) > 1:
            continue
        first, last, step, shift = found[-1] if found else (0, 0, 0, 0)
        if shift == ord(text) - point and step in (0, point - last) and point - last <= 2:
            found[-1] = (first, point, point - last, shift)
        else:
            found.append((point, point, 0, ord(text) - point))
    return [(first, last, step or 1, shift) for first, last, step, shift in found]


def _decompositions() -> tuple[list[tuple[int, ...]], list[tuple[int, ...]]]:
    """Canonical decompositions, one step each, but for Hangul's: a character with its two, and whether they are put
    together again; and a character with its one."""
    compose = NFC().normalize_str
    composed, single = [], []
    for point, _ in _answers(NFD().normalize_str):
        if point in HANGUL:
            continue
        parts = [int(part, 16) for part in unicodedata.decomposition(chr(point)).split()]
        if len(parts) == 1:
            single.append((point, *parts))
        else:
            composed.append((point, *parts, int(compose("".join(map(chr, parts))) == chr(point))))
    return composed, single


def _marks() -> list[tuple[int, ...]]:
    """First, last and class of the characters that are put in the order of their classes."""
    decompose = NFD().normalize_str

    def moves(mark: str) -> bool:
        after, before = f"{FIRST_MARK}{mark}", f"{mark}{LAST_MARK}"
        return decompose(after[::-1]) == after or decompose(before[::-1]) == before

    whole = [chr(point) for point in POINTS if unicodedata.combining(chr(point))]
    marks = [(ord(mark), unicodedata.combining(mark)) for mark in whole if decompose(mark) != mark or moves(mark)]
    runs = groupby(enumerate(marks), lambda each: (each[1][0] - each[0], each[1][1]))
    found = [[mark for _, mark in run] for _, run in runs]
    return [(run[0][0], run[-1][0], run[0][1]) for run in found]


def _array(kind: str, name: str, rows: Sequence[tuple[int, ...]]) -> list[str]:
    """A constant of C++, as few lines as fit."""
    lines = [f"constexpr std::array<{kind}, {len(rows)}> {name}{{{{"]
    line = ""
    for row in rows:
        word = f"{{{', '.join(map(_number, row))}}},"
        if len(line) + len(word) > WIDTH:
            lines.append(line)
            line = ""
        line += word
    return [*lines, line, "}};"]


def _number(value: int) -> str:
    return f"{value:#x}" if value > 9 else str(value)


if __name__ == "__main__":
    sys.stdout.write(tables())
