"""Text from files and arguments as it may be shown: nothing in it can drive a terminal or hide what is written."""

import unicodedata

__all__ = ["one_line", "printable"]

_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
"""Unicode's categories of controls (C0, C1), formats (direction marks, zero widths), surrogates, line separators."""


def printable(text: str) -> str:
    """`text` with everything that is not seen, newline and tab aside, as an escape: `\\x1b`, `\\u202e`."""
    if text.isprintable():
        return text
    return "".join(_escaped(c) if c not in "\n\t" and unicodedata.category(c) in _HIDDEN else c for c in text)


def one_line(text: str) -> str:
    """The same of what stands in one line, such as a name: its newlines and tabs are escapes, too."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
