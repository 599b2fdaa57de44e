"""SHA256SUMS as coreutils write and check it: `sha256sum -c SHA256SUMS` holds a folder to it without this package."""

import re
from pathlib import Path

from ptq_export.artifacts import inside, require_regular, sha256_file
from ptq_export.errors import GateFailed, InputError

__all__ = ["SUMS", "check_sums", "write_sums"]

SUMS = "SHA256SUMS"
LARGEST_BYTES = 1 << 20
LEFT_BY_USE = frozenset({"engine", "__pycache__"})
"""Folders that loading an engine, or a server's Python, makes beside the files of a package."""
_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^\\\0]+)")
_REMEDY = "copy the package again"


def write_sums(folder: Path) -> None:
    """Write the digests of all files below `folder`."""
    lines = [f"{sha256_file(folder / name)}  {name}\n" for name in _files(folder)]
    (folder / SUMS).write_text("".join(lines), encoding="utf-8")


def check_sums(folder: Path) -> int:
    """How many files the package names; all are there and whole, and no other is.

    Raises:
        GateFailed: one is damaged, absent, or not named.
        InputError: SHA256SUMS itself cannot be read, or names a file outside the folder.
    """
    stated = _read(folder / SUMS)
    for name, sha256 in stated.items():
        path = inside(folder, name)
        found = sha256_file(path) if path.is_file() else "absent"
        if found != sha256:
            raise GateFailed(f"{name} is damaged: sha256 {found}, {SUMS} says {sha256}", _REMEDY)
    if strange := sorted({*_files(folder)} - {*stated}):
        raise GateFailed(f"{folder} holds what {SUMS} does not name: {', '.join(strange)[:400]}", _REMEDY)
    return len(stated)


def _files(folder: Path) -> list[str]:
    names = (path.relative_to(folder) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return sorted(name.as_posix() for name in names if not LEFT_BY_USE & {*name.parts} and name.as_posix() != SUMS)


def _read(path: Path) -> dict[str, str]:
    if require_regular(path) > LARGEST_BYTES:
        raise InputError(f"{path} is too large", _REMEDY)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", _REMEDY) from error
    found = [_LINE.fullmatch(line) for line in lines]
    named = {match[2]: match[1] for match in found if match is not None}
    if not named or len(named) != len(lines):
        raise InputError(f"{path} does not hold a digest and a file name per line", _REMEDY)
    return named
