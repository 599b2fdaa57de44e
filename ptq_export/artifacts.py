"""Files that are whole or absent: temporary file beside the target, then `os.replace`; sha256 of everything kept."""

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptq_export.errors import InputError

__all__ = ["atomic_path", "describe_file", "digest", "read_json", "sha256_file", "write_json"]


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """A temporary path beside `target`, moved onto it when the block ends without an error.

    Raises:
        InputError: the folder cannot be written or the disk is full; `target` is as it was before.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=target.suffix)
        os.close(handle)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}", "choose another folder with --out") from error
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}", "free some disk space and run again") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_json(target: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as indented JSON, whole or not at all."""
    with atomic_path(target) as path:
        path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        InputError: the file is absent or damaged.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(f"{path} cannot be read: {error}", "make the run again, in a new folder") from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object", "make the run again, in a new folder")
    return value


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    return total.hexdigest()


def describe_file(path: Path) -> dict[str, Any]:
    """A file's entry among the artefacts of a manifest."""
    return {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}


def digest(value: object) -> str:
    """Hexadecimal sha256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
