"""Which engine files this account built on this machine: only those are loaded, unless the caller vouches for a folder.

What an engine is built from, the ONNX file, is data and bears a digest in the manifest. What is built is neither: an
optimised graph says nothing of the graph that it was made of, and a TensorRT plan is machine code. So a note of every
build is kept in the user's cache folder, outside of any run: engines that came with a folder, or were changed since,
are built again. A note is an empty file, its name the digest of the engine's bytes and of its identity.
"""

import logging
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptq_export.artifacts import atomic_path, digest
from ptq_export.errors import InputError
from ptq_export.user_cache import user_cache

__all__ = ["note_build", "note_operators", "private_name", "sidecar_path", "was_built_here"]

logger = logging.getLogger(__name__)
_NOTES, _OPERATORS, _TOKEN = "built", "operators", "token"


def sidecar_path(engine_file: Path) -> Path:
    """`name.identity.json` beside `name.<kind of file>.<suffix>`."""
    return engine_file.with_name(f"{Path(engine_file.stem).stem}.identity.json")


def note_build(identity: Mapping[str, Any], file_sha256: str) -> None:
    """Remember that this account built the engine file of that digest."""
    try:
        with atomic_path(_note(identity, file_sha256)) as path:
            path.touch()
    except InputError as error:
        logger.warning("no note of this build can be kept, so it is made again at every start: %s", error.cause)


def was_built_here(identity: Mapping[str, Any], file_sha256: str) -> bool:
    """Whether this account built the engine file of that digest, as what its identity says that it is."""
    try:
        return _note(identity, file_sha256).is_file()
    except InputError:
        return False


def note_operators(library: Path, sha256: str) -> None:
    """Remember where the compiled operators of that digest are: the C++ library (`engines/cpp`), which shares these
    notes, loads them from there for engines that were built with them."""
    try:
        note, place = user_cache() / _OPERATORS / sha256, str(library.resolve())
        if not (note.is_file() and note.read_text(encoding="utf-8") == place):
            with atomic_path(note) as path:
                path.write_text(place, encoding="utf-8")
    except (InputError, OSError, UnicodeError) as error:
        logger.debug("no note of the operators can be kept: %s", error)


def private_name(identity: Mapping[str, Any]) -> str:
    """A name for what a runtime itself keeps, which nobody who sends a folder can know."""
    return digest([identity, _token()])[:16]


def _note(identity: Mapping[str, Any], file_sha256: str) -> Path:
    return user_cache() / _NOTES / digest([identity, file_sha256])


def _token() -> str:
    """Made once per account; one of this process alone where it cannot be kept."""
    try:
        path = user_cache() / _TOKEN
        if not path.is_file():
            with atomic_path(path) as file:
                file.write_text(secrets.token_hex(16), encoding="ascii")
        return path.read_text(encoding="ascii")
    except (InputError, OSError, UnicodeDecodeError):
        return secrets.token_hex(16)
