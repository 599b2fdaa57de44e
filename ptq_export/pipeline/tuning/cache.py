"""What was tuned once on a machine for a graph is not tuned again: one file per key in the user's cache folder.

The folder is `ptq-export/tune` in `$XDG_CACHE_HOME`, or in `~/.cache`; for a user without a home it lasts as long as
the process. A file that is damaged or cannot be read is a miss, and said; one that cannot be written is said, too.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptq_export.artifacts import digest, write_json
from ptq_export.errors import InputError
from ptq_export.schemas import SCHEMA, read_part
from ptq_export.user_cache import user_cache

__all__ = ["cache_file", "recall", "remember"]

logger = logging.getLogger(__name__)


def cache_file(key: Mapping[str, Any]) -> Path:
    """Where the tuning of that machine and graph is kept."""
    return user_cache() / "tune" / f"{digest(key)}.json"


def recall(key: Mapping[str, Any]) -> dict[str, Any] | None:
    """The tuning under that key, or None."""
    path = cache_file(key)
    try:
        if not path.exists():
            return None
        found = read_part(path.parent, path.name, "tuned.json")
        if digest(found["key"]) == digest(key) and found["digest"] == digest(found["tuning"]):
            tuning: dict[str, Any] = found["tuning"]
            return tuning
    except (InputError, OSError):
        pass
    logger.warning("%s is damaged: what it held is measured again", path)
    return None


def remember(key: Mapping[str, Any], tuning: Mapping[str, Any]) -> None:
    """Keep a tuning under its key."""
    try:
        write_json(
            cache_file(key), {"schema": SCHEMA, "key": dict(key), "digest": digest(tuning), "tuning": dict(tuning)}
        )
    except InputError as error:
        logger.warning("this tuning is not kept for other runs: %s", error.cause)
