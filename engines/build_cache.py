"""What a built engine depends on, kept in a sidecar beside it and compared before the engine is loaded.

A sidecar and not the head of the engine file: other programs load that file too. A sidecar proves nothing: whoever can
change the engine can change it as well. What was built here is told by `ptq_export.provenance`.
"""

import logging
import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from ptq_export.artifacts import (
    atomic_with_data,
    data_beside,
    require_regular,
    sha256_file,
    sha256_with_data,
    write_json,
)
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.processor import instruction_sets
from ptq_export.provenance import note_build, sidecar_path, was_built_here
from ptq_export.schemas import read_part
from ptq_export.scratch import lasting_folder, no_room

__all__ = [
    "Identity",
    "build_or_reuse",
    "current",
    "differences",
    "read_identity",
    "sidecar_path",
    "stale_reasons",
    "verified_sha256",
    "workshop",
    "writable",
    "write_identity",
]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Identity:
    """Everything that decides the bytes of an engine; `options` holds only those that do (threads do not), `device`
    the GPU that it is bound to."""

    engine: str
    versions: Mapping[str, str]
    onnx_sha256: str
    options: Mapping[str, Any]
    os: str
    arch: str
    isa: tuple[str, ...]
    device: str = ""


def current(
    engine: str,
    versions: Mapping[str, str],
    onnx_sha256: str,
    options: Mapping[str, Any] | None = None,
    isa: tuple[str, ...] | None = None,
    device: str = "",
) -> Identity:
    """The identity of an engine built here and now from the ONNX with that sha256; `isa` is this processor's."""
    system, machine = platform.system().lower(), platform.machine().lower()
    isa = instruction_sets() if isa is None else isa
    return Identity(engine, dict(versions), onnx_sha256, dict(options or {}), system, machine, isa, device)


def differences(found: Identity, wanted: Identity) -> list[str]:
    """One sentence per field in which `found` is not `wanted`."""
    pairs = [(field.name, getattr(found, field.name), getattr(wanted, field.name)) for field in fields(Identity)]
    return [f"{name}: {_plain(old)} instead of {_plain(new)}" for name, old, new in pairs if old != new]


def stale_reasons(engine_file: Path, wanted: Identity, trusted: bool = False) -> list[str]:
    """Why `engine_file` cannot be used as `wanted`; empty where it can. One that this account did not build here is
    used only where its folder is `trusted`."""
    if not engine_file.exists():
        return [f"{engine_file.name} is not there"]
    try:
        require_regular(engine_file)
        found, file_sha256 = read_identity(engine_file)
    except InputError as error:
        return [error.cause]
    if sha256_with_data(engine_file) != file_sha256:
        return [f"{engine_file.name} is damaged: its sha256 is not the one in {sidecar_path(engine_file).name}"]
    reasons = differences(found, wanted)
    if not (reasons or trusted or was_built_here(asdict(wanted), file_sha256)):
        reasons = [f"{engine_file.name} was not built by this account on this machine"]
    return reasons


def build_or_reuse(
    path: Path,
    identity: Identity,
    build: Callable[[Path], object],
    doing: str,
    done: str,
    owner: object | None = None,
    trusted: bool = False,
) -> Path:
    """`path`, if it lies there with that `identity`, built here or `trusted`; else it is what `build(file)` writes into
    the file that it is given. The log says what is being done and what is `done` "at every start", where the folder
    cannot be written: a run folder that is served from a read-only disk, or a full one. Then the file lasts as long as
    its `owner`, or this process.

    Raises:
        EnvironmentMissing: there is no room for temporary files either.
    """
    reasons = stale_reasons(path, identity, trusted)
    if not reasons:
        return path
    logger.info("%s: %s", doing, "; ".join(reasons))
    if not writable(path.parent):
        logger.warning("%s cannot be written: %s at every start", path.parent, done)
    else:
        try:
            return _built(path, identity, build)
        except _NoRoom as error:
            logger.warning("%s: %s at every start", error.cause, done)
    return _built(lasting_folder(owner) / path.name, identity, build)


def _built(path: Path, identity: Identity, build: Callable[[Path], object]) -> Path:
    """`path` with its sidecar.

    Raises:
        _NoRoom: the disk is full.
    """
    try:
        with atomic_with_data(path) as file:
            try:
                build(file)
            except Exception as error:
                if reason := no_room(file):
                    raise _NoRoom(path.parent, reason) from error
                raise
        write_identity(path, identity)
    except InputError as error:
        if reason := no_room(path):
            path.unlink(missing_ok=True)
            data_beside(path).unlink(missing_ok=True)
            raise _NoRoom(path.parent, reason) from error
        raise
    return path


class _NoRoom(EnvironmentMissing):
    """Its disk is full: what was built cannot be kept there."""

    def __init__(self, folder: Path, reason: str) -> None:
        super().__init__(f"{folder}: {reason}", "free some disk space, or set TMPDIR to a folder that has room")


@cache
def workshop() -> Path:
    """A folder that lasts as long as this process, for engines that nobody keeps."""
    return lasting_folder()


def verified_sha256(source: Path, sha256: str | None) -> str:
    """The digest of `source`, the ONNX file that an engine is built from.

    Raises:
        InputError: it is absent, or is not the file with the given `sha256`.
    """
    if not source.is_file():
        raise InputError(f"{source} does not exist", "export it first")
    found = sha256_file(source)
    if sha256 not in (None, found):
        raise InputError(
            f"{source.name} is damaged: its sha256 is {found}, the manifest says {sha256}",
            "copy the file again, or make the run again in a new folder",
        )
    return found


def writable(folder: Path) -> bool:
    """Whether engines can be kept in `folder`, which is made where it can be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def write_identity(engine_file: Path, identity: Identity) -> None:
    """Write the sidecar of an engine file that was just built, and note that it was built here."""
    file_sha256 = sha256_with_data(engine_file)
    write_json(sidecar_path(engine_file), asdict(identity) | {"file_sha256": file_sha256})
    note_build(asdict(identity), file_sha256)


def read_identity(engine_file: Path) -> tuple[Identity, str]:
    """The identity in an engine's sidecar, and the sha256 that its file had.

    Raises:
        InputError: the sidecar is absent or damaged.
    """
    path = sidecar_path(engine_file)
    value = read_part(path.parent, path.name, "identity.json")
    file_sha256 = value.pop("file_sha256")
    unknown = sorted(set(value) - {field.name for field in fields(Identity)})
    if unknown:
        raise InputError(f"{path.name} is not the identity of an engine: it has {', '.join(unknown)[:80]}")
    return Identity(**value | {"isa": tuple(value["isa"])}), file_sha256


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items()) or "nothing"
    return (" ".join(value) if isinstance(value, tuple) else str(value)) or "nothing"
