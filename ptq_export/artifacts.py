"""Files that are whole or absent: temporary file beside the target, then `os.replace`; sha256 of everything kept.

What is read back is bounded: regular files only, JSON of a size, depth and range that this package itself writes.
"""

import hashlib
import json
import math
import os
import re
import stat
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from ptq_export.errors import InputError

__all__ = [
    "DATA",
    "MAX_JSON_BYTES",
    "atomic_path",
    "atomic_with_data",
    "data_beside",
    "describe_file",
    "digest",
    "inside",
    "is_leftover",
    "prompt_beside",
    "read_json",
    "require_regular",
    "sha256_file",
    "sha256_with_data",
    "write_json",
]

MAX_JSON_BYTES = 1 << 25
MAX_INTEGER = 1 << 63
DATA = ".data"
REMEMBERED_BYTES = 64 * 2**20
"""Digests of larger files are remembered, as long as the file is not touched."""
_SETTLED_NS = 10**8  # clocks of file systems tick every few milliseconds: a later change has another time
_LEFTOVER = re.compile(r"\..+(\.[^.]+)\.[a-z0-9_]{8}\1(\.data)?")
_known: dict[Path, tuple[tuple[int, ...], str]] = {}


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


def data_beside(path: Path) -> Path:
    """Where the data of a file lie that does not hold them itself: `name.onnx.data`."""
    return path.with_name(f"{path.name}{DATA}")


def prompt_beside(path: Path) -> Path:
    """Where the prompt graph of a step graph lies, if it has one: `name.prompt.onnx`."""
    return path.with_suffix(f".prompt{path.suffix}")


@contextmanager
def atomic_with_data(target: Path) -> Iterator[Path]:
    """As `atomic_path`, together with what the block puts beside the temporary path (`data_beside`), which comes first.
    Where it puts nothing there, the data of an older `target` go.

    Killed between the two moves, it leaves no `target`, unless that was one without data.
    """
    with atomic_path(target) as temporary:
        try:
            yield temporary
            made, data = data_beside(temporary), data_beside(target)
            if data.exists():
                target.unlink(missing_ok=True)  # it would be read with other data
            if made.exists():
                made.chmod(0o644)
                made.replace(data)
            else:
                data.unlink(missing_ok=True)
        finally:
            data_beside(temporary).unlink(missing_ok=True)


def is_leftover(name: str) -> bool:
    """Whether a file of this name is what an `atomic_path` left that was killed: `.request.json.k3j_x9a0.json`."""
    return _LEFTOVER.fullmatch(name) is not None


def inside(folder: Path, name: str) -> Path:
    """The file `name` of a folder that may have come from someone else.

    Raises:
        InputError: the name, or a link on its way, leads out of the folder.
    """
    path = folder / name
    try:
        with suppress(FileNotFoundError, NotADirectoryError):
            path.lstat()
        leads_out = Path(name).is_absolute() or ".." in Path(name).parts
        if leads_out or not path.resolve().is_relative_to(folder.resolve()):
            raise InputError(f"{name!r} leads out of {folder}", "a run folder names and reads its own files only")
    except (OSError, RuntimeError, ValueError) as error:  # too long, a circle of links, a NUL
        raise InputError(f"{name[:80]!r} is no file name of {folder}: {error}") from error
    return path


def require_regular(path: Path) -> int:
    """The size of a regular file in bytes: a pipe would be waited for, and a device never ends.

    Raises:
        InputError: it is absent, cannot be looked at, or is no regular file.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path} is a {_kind(found.st_mode)}", "give a regular file")
    return found.st_size


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "named pipe", stat.S_ISSOCK: "socket"}
    return next((name for test, name in kinds.items() if test(mode)), "device")


def write_json(target: Path, value: Mapping[str, Any]) -> None:
    """Write `value` as indented JSON, whole or not at all; what is NaN or infinite, which JSON cannot hold, as null.

    Raises:
        InputError: the folder cannot be written, or the text is longer than `read_json` takes.
    """
    try:
        text = json.dumps(value, indent=1, allow_nan=False) + "\n"
    except ValueError:
        text = json.dumps(_with_nulls(value), indent=1) + "\n"
    if len(text) > MAX_JSON_BYTES:
        raise InputError(f"{target.name} would take {len(text) >> 20} MiB", "measure for fewer --seconds or --rounds")
    with atomic_path(target) as path:
        path.write_text(text, encoding="utf-8")


def _with_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _with_nulls(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_nulls(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, infinities: bool = False) -> dict[str, Any]:
    """Read a JSON object of finite numbers and 64-bit integers, each key once, of at most `MAX_JSON_BYTES`.

    `infinities` lets `-Infinity` and `Infinity` pass, which diffusers writes into scheduler_config.json.

    Raises:
        InputError: the file is absent, damaged, or something else.
    """
    remedy = "make the run again, in a new folder"
    size_bytes = require_regular(path)
    if size_bytes > MAX_JSON_BYTES:
        raise InputError(f"{path} has {size_bytes >> 20} MiB, JSON of at most {MAX_JSON_BYTES >> 20} is read", remedy)
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(
            text,
            object_pairs_hook=_each_once,
            parse_constant=_infinite if infinities else _refuse,
            parse_float=_finite,
            parse_int=_bounded,
        )
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode()  # half a character cannot be shown
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", remedy) from error
    except RecursionError as error:
        raise InputError(f"{path} cannot be read: it is nested too deeply", remedy) from error
    if not isinstance(value, dict):
        raise InputError(f"{path} is not a JSON object", remedy)
    return value


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, number in Counter(key for key, _ in pairs).items() if number > 1)
        raise ValueError(f"it holds {twice[:80]!r} twice")
    return found


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _infinite(constant: str) -> float:
    return _refuse(constant) if constant == "NaN" else float(constant)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:40]} is no finite number")
    return value


def _bounded(text: str) -> int:
    if len(text) > 20 or abs(int(text)) >= MAX_INTEGER:
        raise ValueError(f"the integer {text[:20]} of {len(text)} digits is too large")
    return int(text)


def sha256_file(path: Path) -> str:
    """Hexadecimal sha256 of a file's bytes; a large file that has not changed is not read again by this process."""
    before = _state(path)
    known = _known.get(path.absolute())
    if known is not None and known[0] == before:
        return known[1]
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            total.update(block)
    settled = time.time_ns() - max(before[-2:]) > _SETTLED_NS
    if before[0] >= REMEMBERED_BYTES and settled and _state(path) == before:
        _known[path.absolute()] = before, total.hexdigest()
    return total.hexdigest()


def _state(path: Path) -> tuple[int, ...]:
    """What changes with a file's content."""
    found = path.stat()
    return found.st_size, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns


def sha256_with_data(path: Path) -> str:
    """One digest of a file and the data beside it; that of the file alone where there are none."""
    data = data_beside(path)
    return digest([sha256_file(path), sha256_file(data)]) if data.is_file() else sha256_file(path)


def describe_file(path: Path) -> dict[str, Any]:
    """A file's entry among the artefacts of a manifest."""
    return {"sha256": sha256_file(path), "size_bytes": path.stat().st_size}


def digest(value: object) -> str:
    """Hexadecimal sha256 of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
