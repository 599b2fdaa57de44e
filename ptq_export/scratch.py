"""Folders for files that nobody keeps: removed by their owner, else when the process ends, else by a later one.

All lie in one folder `ptq-export-…` per process under `$TMPDIR`. Its file `lock` is locked for as long as the process
lives: a folder whose lock is free was left by one that was killed, be it in another container.
"""

import fcntl
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from ptq_export.errors import EnvironmentMissing
from ptq_export.signals import at_forced_end

__all__ = ["scratch_folder"]

PREFIX, LOCK = "ptq-export-", "lock"
_REMEDY = "set TMPDIR to a folder that can be written and has room"


def scratch_folder() -> "tempfile.TemporaryDirectory[str]":
    """A new folder: use it as a context, or call its `cleanup()`.

    Raises:
        EnvironmentMissing: no folder for temporary files can be written, or its disk is full.
    """
    try:
        return tempfile.TemporaryDirectory(dir=_root().name)
    except OSError as error:
        raise EnvironmentMissing(f"no folder for temporary files can be used: {error}", _REMEDY) from error


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
