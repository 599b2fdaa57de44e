"""One process at a time makes or amends a run folder: `flock` on its file `.lock`, which says who holds it.

The lock is the kernel's: it ends with its process, however that ends, and what a killed one leaves is a file that
nobody holds. Linux also passes it on to an NFS server, unless the mount says `nolock` or `local_lock`; where a file
system knows no locks, and on Windows, there is none.
"""

import logging
import os
import socket
from pathlib import Path
from typing import IO

from ptq_export.artifacts import require_regular
from ptq_export.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

__all__ = ["LOCK", "acquire", "release"]

logger = logging.getLogger(__name__)
LOCK = ".lock"
_held: dict[Path, tuple[IO[str], int]] = {}
"""What this process holds, and how often it asked: it may open its own folder twice."""


def acquire(folder: Path) -> Path | None:
    """Take the lock of `folder`, for `release`; None where there is nothing to lock with.

    Raises:
        InputError: another process holds it; the message names that process.
    """
    key = folder.resolve()
    if key in _held:
        file, times = _held[key]
        _held[key] = file, times + 1
        return key
    opened = None if fcntl is None else _open_locked(key / LOCK)
    if opened is None:
        return None
    _held[key] = opened, 1
    return key


def release(key: Path) -> None:
    """Give back what `acquire` took; the file goes with the last of it."""
    file, times = _held.pop(key)
    if times > 1:
        _held[key] = file, times - 1
        return
    (key / LOCK).unlink(missing_ok=True)
    file.close()


def _open_locked(path: Path) -> IO[str] | None:
    while True:
        try:
            file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644), "r+")
        except OSError:  # a folder that cannot be written: whoever serves from it changes nothing
            return None
        require_regular(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise _taken(path.parent, file) from error
        except OSError as error:
            logger.warning("%s cannot be locked (%s): keep a second process away from it", path.parent, error.strerror)
            file.close()
            return None
        if _is(path, file):
            file.truncate()
            file.write(f"{os.getpid()} {socket.gethostname()}\n")
            file.flush()
            return file
        file.close()  # its holder removed it just now


def _is(path: Path, file: IO[str]) -> bool:
    try:
        return path.stat().st_ino == os.fstat(file.fileno()).st_ino
    except FileNotFoundError:
        return False


def _taken(folder: Path, file: IO[str]) -> InputError:
    with file:
        pid, _, host = file.readline(200).strip().partition(" ")
    named = f"process {pid} on {host}" if pid.isdecimal() and host else "another process"
    return InputError(f"{named} is at work on {folder}", "wait for it to end, or choose another folder with --out")
