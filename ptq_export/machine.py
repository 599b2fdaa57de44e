"""What this machine can hold: memory and threads, as far as its container and its limits let a process have them."""

import ctypes
import gc
import os
import resource
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

from ptq_export.errors import InputError

__all__ = [
    "most_threads",
    "physical_cores",
    "release_memory",
    "require_memory",
    "require_threads",
    "total_memory_bytes",
]

THREADS_PER_CORE = 8
_CGROUP_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # version 2, version 1


def physical_cores() -> int:
    """Cores that this process may use: a second thread on a core shares its multipliers and gains nothing."""
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or logical, logical)


def most_threads() -> int:
    """More than that do not help on any of this machine's cores, and too many cannot even be started."""
    return THREADS_PER_CORE * max(os.cpu_count() or 1, 16)


def require_threads(threads: int) -> None:
    """Refuse a number of threads that no computation here can use.

    Raises:
        InputError: it is less than one, or past `most_threads()`.
    """
    if not 1 <= threads <= most_threads():
        cores = f"this machine has {os.cpu_count()} logical cores"
        raise InputError(f"{threads} threads: {cores}", f"give --threads from 1 to {most_threads()}")


@cache
def total_memory_bytes() -> int:
    """Memory that a process may have here at most: what is built in and swap, or less where a limit is set."""
    limits: list[int] = [psutil.virtual_memory().total + psutil.swap_memory().total]
    limits += [size for size in (_cgroup_bytes(name) for name in _CGROUP_LIMITS) if size is not None]
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return min([*limits, *([] if soft == resource.RLIM_INFINITY else [soft])])


def release_memory() -> None:
    """Give the system back what nothing refers to: modules and graphs refer to themselves, and glibc keeps the pages
    between blocks that are still used."""
    gc.collect()
    with suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def require_memory(size_bytes: int, what: str, remedy: str) -> None:
    """Refuse `what`, which needs that much memory, where there cannot be so much.

    Raises:
        InputError: with both sizes.
    """
    if size_bytes > total_memory_bytes():
        found = total_memory_bytes() / 2**30
        raise InputError(f"{what} would take {size_bytes >> 30:,} GiB of memory, there are {found:.1f}", remedy)


def _cgroup_bytes(name: str) -> int | None:
    try:
        return int(Path("/sys/fs/cgroup", name).read_text())
    except (OSError, ValueError):  # there is none, or it is `max`
        return None
