"""What was tuned once on a machine for a graph is not tuned again: one file per key in the user's cache folder.

The folder is `ptq-export/tune` in `$XDG_CACHE_HOME`, or in `~/.cache`; for a user without a home it lasts as long as
the process. A file that is damaged or cannot be read is a miss, and said; one that cannot be written is said, too.
"""

import logging
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from ptq_export.artifacts import digest, read_json, write_json
from ptq_export.errors import InputError
from ptq_export.scratch import lasting_folder

__all__ = ["cache_file", "recall", "remember"]

logger = logging.getLogger(__name__)


def cache_file(key: Mapping[str, Any]) -> Path:
    """Where the tuning of that machine and graph is kept."""
    return _folder() / "ptq-export" / "tune" / f"{digest(key)}.json"


def _folder() -> Path:
    given = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(given) if given else Path.home() / ".cache"
    except RuntimeError:  # neither $HOME nor an entry among the users: a container's number
        return _of_this_process()


@cache
def _of_this_process() -> Path:
    return lasting_folder()


def recall(key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tuning under that key, or None."""
    path = cache_file(key)
    try:
        if not path.is_file():
            return None
        found = read_json(path)
        if digest(found["key"]) == digest(key) and found["digest"] == digest(found["tuning"]):
            tuning: dict[str, Any] = found["tuning"]
            return tuning
    except (InputError, KeyError, OSError):
        pass
    logger.warning("%s is damaged: what it held is measured again", path)
    return None


def remember(key: Mapping[str, Any], tuning: Mapping[str, Any]) -> None:
    """Keep a tuning under its key."""
    try:
        write_json(cache_file(key), {"key": dict(key), "digest": digest(tuning), "tuning": dict(tuning)})
    except InputError as error:
        logger.warning("this tuning is not kept for other runs: %s", error.cause)
