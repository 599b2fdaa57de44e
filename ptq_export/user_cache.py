"""The folder where this package keeps what outlives a run: `ptq-export` in `$XDG_CACHE_HOME`, or in `~/.cache`.

For a user without a home (a container's number, say) it lasts as long as the process.
"""

import os
from functools import cache
from pathlib import Path

from ptq_export.scratch import lasting_folder

__all__ = ["user_cache"]


def user_cache() -> Path:
    """That folder, which may not be there yet."""
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        base = Path(given) if given else Path.home() / ".cache"
    except RuntimeError:  # neither $HOME nor an entry among the users
        base = _of_this_process()
    return base / "ptq-export"


@cache
def _of_this_process() -> Path:
    return lasting_folder()
