"""The folder where this package keeps what outlives a run: `ptq-export` in `$XDG_CACHE_HOME`, or in `~/.cache`."""

import os
from pathlib import Path

from ptq_export.errors import InputError

__all__ = ["user_cache"]


def user_cache() -> Path:
    """That folder, which may not be there yet.

    Raises:
        InputError: this process has no home.
    """
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError as error:
        raise InputError("there is no home folder to keep anything in", "set XDG_CACHE_HOME") from error
    return base / "ptq-export"
