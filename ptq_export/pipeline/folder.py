"""The run folder: which options it belongs to, which of its files are whole, and what may be resumed."""

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ptq_export.artifacts import atomic_path, read_json, sha256_file, write_json
from ptq_export.errors import InputError

__all__ = ["RunFolder"]

logger = logging.getLogger(__name__)
REQUEST, LEDGER = "request.json", "ledger.json"


class RunFolder:
    """A folder whose `request.json` says what is made there; its `ledger.json` holds the sha256 of what is done."""

    def __init__(self, path: Path, request: Mapping[str, Any]) -> None:
        """Create the folder, or take up the run that stands in it.

        Raises:
            InputError: it cannot be written, holds something else, or a run with other options; the message names
                every option that differs.
        """
        self.path = path
        if path.exists() and not path.is_dir():
            raise InputError(f"{path} is a file", "choose another folder with --out")
        if (path / REQUEST).exists():
            _refuse_other(path, read_json(path / REQUEST), request)
        elif path.is_dir() and any(path.iterdir()):
            raise InputError(f"{path} is not empty and holds no run", "choose another folder with --out")
        else:
            write_json(path / REQUEST, request)
        self._ledger = self._read_ledger()

    def has(self, name: str) -> bool:
        """Whether the file `name` is finished and unchanged; a damaged one is a miss."""
        if name not in self._ledger:
            return False
        file = self.path / name
        if file.is_file() and sha256_file(file) == self._ledger[name]:
            return True
        logger.warning("%s is damaged or gone: it is made again", file)
        return False

    def keep(self, name: str) -> None:
        """Record that the file `name` is finished."""
        self._ledger[name] = sha256_file(self.path / name)
        write_json(self.path / LEDGER, self._ledger)

    def forget(self, names: Iterable[str]) -> None:
        """Treat these files as not made yet."""
        self._ledger = {name: sha256 for name, sha256 in self._ledger.items() if name not in set(names)}
        write_json(self.path / LEDGER, self._ledger)

    @property
    def names(self) -> list[str]:
        """The finished files."""
        return sorted(self._ledger)

    def sha256(self, name: str) -> str:
        """The recorded digest of a finished file."""
        return self._ledger[name]

    def load_tensors(self, name: str) -> dict[str, Tensor] | None:
        """The tensors of a finished file, or None."""
        try:
            return load_file(self.path / name) if self.has(name) else None
        except SafetensorError:
            return None

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors as a finished file."""
        with atomic_path(self.path / name) as temporary:
            # Through bytes: a full disk is then an OSError that `atomic_path` explains.
            temporary.write_bytes(save({key: value.contiguous() for key, value in tensors.items()}))
        self.keep(name)

    def save_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON object as a finished file."""
        write_json(self.path / name, value)
        self.keep(name)

    def load_json(self, name: str) -> dict[str, Any] | None:
        """The JSON object of a finished file, or None."""
        return read_json(self.path / name) if self.has(name) else None

    def _read_ledger(self) -> dict[str, str]:
        try:
            return {str(name): str(sha256) for name, sha256 in read_json(self.path / LEDGER).items()}
        except InputError:
            return {}


def _refuse_other(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differences = []
    for section in sorted({*found, *asked}):
        before, now = found.get(section), asked.get(section)
        if isinstance(before, dict) and isinstance(now, dict):
            keys = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
            prefix = "" if section == "options" else f"{section}, "
            differences += [f"{prefix}{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in keys]
        elif before != now:
            differences.append(f"{section}: {before!r} there, {now!r} now")
    if differences:
        raise InputError(
            f"{path} holds a run with other options ({'; '.join(differences)})",
            "give the same options to resume it, or choose another folder with --out",
        )
