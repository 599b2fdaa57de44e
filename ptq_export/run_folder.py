"""The run folder: which options it belongs to, which of its files are whole, and what may be resumed.

A finished run is amended (`bench`, `sensitivity`) by files that become true together: they are written to a folder of
their own, which one rename declares complete, and are moved into place from there; whoever opens the run next moves
what a killed process left (a journal that is rolled forward).
"""

import logging
import os
import shutil
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from ptq_export.artifacts import (
    atomic_path,
    data_beside,
    describe_file,
    inside,
    is_leftover,
    prompt_beside,
    sha256_file,
    write_json,
)
from ptq_export.errors import InputError
from ptq_export.lock import LOCK, acquire, release
from ptq_export.schemas import MANIFEST, SCHEMA, read_part

__all__ = ["VERDICT", "RunFolder"]

logger = logging.getLogger(__name__)
REQUEST, LEDGER = "request.json", "ledger.json"
VERDICT = "verdict.json"
STAGED, COMPLETE = ".amending", ".amended"
ENGINE = "engine"
SUBFOLDERS = ("", "units", ENGINE, "jetson")
DAY_S = 86_400


class RunFolder:
    """A folder whose `request.json` says what is made there; its `ledger.json` holds the sha256 of what is done.

    It is made by `create` or `open`, and locked against other processes until it is closed, or forgotten; use it as a
    context.
    """

    def __init__(self, path: Path) -> None:
        """Lock a folder of ours, and put right what a killed process left; see `create` and `open`."""
        self.path = path
        self._staged: Path | None = None
        key = acquire(path)
        self.close = weakref.finalize(self, release, key) if key is not None else _nothing
        try:
            self.was_amended = _tidy(path)
            self._ledger = self._read_ledger()
        except BaseException:
            self.close()
            raise

    @classmethod
    def create(cls, path: Path, request: Mapping[str, Any]) -> "RunFolder":
        """The folder of a run, new, or with what an earlier session of the same run left in it.

        Raises:
            InputError: it cannot be written, holds something else, or a run with other options; the message names
                every option that differs. Or another process is at work on it.
        """
        _refuse_foreign(path)
        folder = cls(path)
        try:
            folder._agree_on(request)
        except BaseException:
            folder.close()
            raise
        return folder

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """The folder of a run that stands in it.

        Raises:
            InputError: there is none, or another process is at work on it.
        """
        read_part(path, REQUEST)
        _refuse_foreign(path)
        return cls(path)

    @property
    def request(self) -> dict[str, Any]:
        """What was asked for when the run began."""
        return read_part(self.path, REQUEST)

    def _agree_on(self, request: Mapping[str, Any]) -> None:
        """Record what is asked for; what stands there must not differ. A package that came later differs from none."""
        if not (self.path / REQUEST).exists():
            write_json(self.path / REQUEST, request)
            return
        found = self.request
        _refuse_other(self.path, found, request)
        versions = {**found["versions"], **request["versions"]}
        if versions != found["versions"]:
            write_json(self.path / REQUEST, found | {"versions": versions})

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def has(self, name: str) -> bool:
        """Whether the file `name` is finished and unchanged; a damaged one is a miss."""
        if name not in self._ledger:
            return False
        file = inside(self.path, name)
        if file.is_file() and sha256_file(file) == self._ledger[name]:
            return all(each not in self._ledger or self.has(each) for each in _belonging(name))
        logger.warning("%s is damaged or gone: it is made again", file)
        return False

    def keep(self, name: str) -> None:
        """Record that the file `name` is finished, and what belongs to it: data, a prompt graph."""
        for each in (name, *_belonging(name)):
            self._ledger.pop(each, None)
            if each == name or self.place(each).is_file():
                self._ledger[each] = sha256_file(self.place(each))
        write_json(self.place(LEDGER), self._ledger)

    def place(self, name: str) -> Path:
        """Where the file `name` is to be written now."""
        return (self._staged or self.path) / name

    @contextmanager
    def amending(self) -> Iterator[dict[str, Any]]:
        """Files that are saved in this block become true together, with the manifest, which it yields to be changed:
        that gets their digests, and `verdict.json` its verdict. After an error, or where the process is killed before
        the end, none of them does."""
        manifest = read_part(self.path, MANIFEST)
        before, self._staged = dict(self._ledger), self.path / STAGED
        try:
            self._staged.mkdir()
            yield manifest
            self.save_json(VERDICT, manifest["verdict"])
            for name in sorted(path.name for path in self._staged.iterdir() if path.name in self._ledger):
                manifest["artefacts"][name] = describe_file(self._staged / name)
            write_json(self._staged / MANIFEST, manifest)
            self._staged.rename(self.path / COMPLETE)
        except BaseException as error:
            self._ledger = before
            shutil.rmtree(self.path / STAGED, ignore_errors=True)
            if isinstance(error, OSError):
                raise InputError(f"cannot write {self.path}: {error.strerror}", "free some disk space") from error
            raise
        finally:
            self._staged = None
        _roll_forward(self.path)

    def forget(self, names: Iterable[str]) -> None:
        """Treat these files as not made yet."""
        gone = {each for name in names for each in (name, *_belonging(name))}
        self._ledger = {name: sha256 for name, sha256 in self._ledger.items() if name not in gone}
        write_json(self.place(LEDGER), self._ledger)

    def forget_all_but(self, names: Iterable[str]) -> None:
        """Treat all other files as not made yet."""
        kept = {each for name in names for each in (name, *_belonging(name))}
        self._ledger = {name: sha256 for name, sha256 in self._ledger.items() if name in kept}
        write_json(self.place(LEDGER), self._ledger)

    def remove(self, names: Iterable[str]) -> None:
        """Forget these files, and take them away."""
        gone = list(names)
        self.forget(gone)
        for name in gone:
            self.place(name).unlink(missing_ok=True)

    @property
    def names(self) -> list[str]:
        """The finished files."""
        return sorted(self._ledger)

    def sha256(self, name: str) -> str:
        """The recorded digest of a finished file.

        Raises:
            InputError: it was never finished.
        """
        if name not in self._ledger:
            raise InputError(f"{self.path / LEDGER} has no {name}", "copy the folder again, or make the run again")
        return self._ledger[name]

    def load_tensors(self, name: str) -> dict[str, Tensor] | None:
        """The tensors of a finished file, or None."""
        try:
            return load_file(self.path / name) if self.has(name) else None
        except (SafetensorError, AttributeError, KeyError, TypeError, ValueError):  # damaged, or types of a later torch
            return None

    def save_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write tensors as a finished file."""
        with atomic_path(self.place(name)) as temporary:
            # Through bytes: a full disk is then an OSError that `atomic_path` explains.
            temporary.write_bytes(save({key: value.contiguous() for key, value in tensors.items()}))
        self.keep(name)

    def save_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write a JSON object as a finished file, of the run folder's schema if it names none of its own."""
        write_json(self.place(name), {"schema": SCHEMA} | dict(value))
        self.keep(name)

    def load_json(self, name: str, kind: str | None = None) -> dict[str, Any] | None:
        """The JSON object of a finished file, or None; `kind` as `read_part` knows it."""
        return read_part(self.path, name, kind) if self.has(name) else None

    def _read_ledger(self) -> dict[str, str]:
        try:
            return dict(read_part(self.path, LEDGER))
        except InputError as error:
            if (self.path / LEDGER).exists():
                logger.warning("%s: what it recorded is made again", error.cause)
            return {}


def _belonging(name: str) -> list[str]:
    """The files that an ONNX file may have beside it: its data, and its prompt graph with the data of that."""
    path = Path(name)
    beside = [data_beside(path)]
    if path.suffix == ".onnx":
        beside += [prompt_beside(path), data_beside(prompt_beside(path))]
    return [str(each) for each in beside]


def _nothing() -> None:
    """In place of giving back a lock that was not taken."""


def _refuse_foreign(path: Path) -> None:
    """Refuse a folder that is none of ours, before anything is changed in it."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file", "choose another folder with --out")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}", "choose another folder with --out") from error
    foreign = [file.name for file in path.iterdir() if file.name != LOCK and not is_leftover(file.name)]
    if foreign and not (path / REQUEST).exists():
        raise InputError(f"{path} is not empty and holds no run", "choose another folder with --out")
    for name in SUBFOLDERS:
        inside(path, name)


def _tidy(path: Path) -> bool:
    """Finish or undo what a killed process left; whether that was an amendment, and now is true.

    Raises:
        InputError: the disk refuses, or what lies there was not left by this package.
    """
    if not os.access(path, os.W_OK):
        return False
    try:
        amended = _roll_forward(path)
        if (path / STAGED).is_dir() and not (path / STAGED).is_symlink():
            shutil.rmtree(path / STAGED)
        for file in (file for name in SUBFOLDERS if (path / name).is_dir() for file in (path / name).iterdir()):
            # Whoever serves from the folder may be filling `engine` now.
            if is_leftover(file.name) and (file.parent.name != ENGINE or time.time() - file.lstat().st_mtime > DAY_S):
                logger.info("%s was left by a process that was killed: removed", file)
                file.unlink(missing_ok=True)
        return amended
    except OSError as error:
        raise InputError(f"cannot tidy up {path}: {error}", "choose another folder with --out") from error


def _roll_forward(path: Path) -> bool:
    """Move the files of a complete amendment into place; whether there was one."""
    complete = path / COMPLETE
    if complete.is_symlink():
        raise InputError(f"{complete} is a link", "remove it")
    if not complete.is_dir():
        return False
    for file in sorted(complete.iterdir()):
        if file.name.startswith(".") or file.is_symlink() or not file.is_file():
            raise InputError(f"{file} is no file of an amended run", "remove it")
        file.replace(path / file.name)
    complete.rmdir()
    return True


def _refuse_other(path: Path, found: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    differences = []
    for section in sorted({*found, *asked}):
        before, now = found.get(section), asked.get(section)
        if isinstance(before, dict) and isinstance(now, dict):
            named = {*before} & {*now} if section == "versions" else {*before, *now}
            keys = sorted(key for key in named if before.get(key) != now.get(key))
            prefix = "" if section == "options" else f"{section}, "
            differences += [f"{prefix}{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in keys]
        elif before != now:
            differences.append(f"{section}: {before!r} there, {now!r} now")
    if differences:
        raise InputError(
            f"{path} holds a run with other options ({'; '.join(differences)})",
            "give the same options to resume it, or choose another folder with --out",
        )
