"""Folders for files that nobody keeps: removed by their owner, else when the process ends, else by a later one.

All lie in one folder `ptq-export-…` per process under `$TMPDIR`. Its file `lock` is locked for as long as the process
lives: a folder whose lock is free was left by one that was killed, be it in another container.
"""

import fcntl
import logging
import os
import shutil
import tempfile
import weakref
from functools import cache
from pathlib import Path

from ptq_export.errors import EnvironmentMissing
from ptq_export.signals import at_forced_end

__all__ = ["find_room", "lasting_folder", "no_room", "scratch_folder"]

logger = logging.getLogger(__name__)

PREFIX, LOCK = "ptq-export-", "lock"
SHARED_MEMORY = "/dev/shm"
LEAST_PROBE = 1 << 20
_REMEDY = "set TMPDIR to a folder that can be written and has room"


def find_room() -> None:
    """Let temporary files, torch's too, lie in shared memory where no folder on a disk takes them, as in a container
    with a read-only root."""
    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        if os.access(SHARED_MEMORY, os.W_OK):
            tempfile.tempdir = SHARED_MEMORY
            logger.warning("%s: temporary files go to %s", error.strerror, SHARED_MEMORY)


def scratch_folder() -> "tempfile.TemporaryDirectory[str]":
    """A new folder: use it as a context, or call its `cleanup()`.

    Raises:
        EnvironmentMissing: no folder for temporary files can be written, or its disk is full.
    """
    try:
        return tempfile.TemporaryDirectory(dir=_root().name)
    except OSError as error:
        raise EnvironmentMissing(f"no folder for temporary files can be used: {error}", _REMEDY) from error


def lasting_folder(owner: object | None = None) -> Path:
    """A new folder that is removed with its `owner`, or at the end of the process.

    Raises:
        EnvironmentMissing: as `scratch_folder`.
    """
    folder = scratch_folder()
    if owner is None:
        _kept().append(folder)
    else:
        weakref.finalize(owner, folder.cleanup)
    return Path(folder.name)


def no_room(partial: Path) -> str:
    """Why `partial`, a file that could not be finished, cannot be longer; empty where its disk is not the cause.

    Runtimes tell of a full disk in many words, so the disk itself is asked.
    """
    try:
        with tempfile.TemporaryFile(dir=partial.parent) as probe:
            size = 2 * partial.stat().st_size if partial.exists() else 0
            os.posix_fallocate(probe.fileno(), 0, max(LEAST_PROBE, size))
    except OSError as error:
        return error.strerror or str(error)
    return ""


@cache
def _kept() -> "list[tempfile.TemporaryDirectory[str]]":
    return []


@cache
def _root() -> "tempfile.TemporaryDirectory[str]":
    """The folder of this process."""
    _remove_abandoned(Path(tempfile.gettempdir()))
    root = tempfile.TemporaryDirectory(prefix=PREFIX)
    _locked(Path(root.name, LOCK), os.O_CREAT)  # never closed: the lock ends with the process
    at_forced_end(root.cleanup)
    return root


def _remove_abandoned(folder: Path) -> None:
    for lock in folder.glob(f"{PREFIX}*/{LOCK}"):
        try:
            handle = _locked(lock)
        except OSError:  # in use, or another user's
            continue
        shutil.rmtree(lock.parent, ignore_errors=True)
        os.close(handle)


def _locked(path: Path, flags: int = 0) -> int:
    """A handle of the file with an exclusive lock.

    Raises:
        OSError: another process holds it.
    """
    handle = os.open(path, os.O_RDWR | os.O_NOFOLLOW | flags, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise
    return handle
