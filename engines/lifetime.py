"""The life of an engine: in the process that loaded it, until it is closed, and never copied."""

import os
from types import TracebackType
from typing import Any, NoReturn, Self

from ptq_export.errors import InputError

__all__ = ["Resident"]

EACH = "call load_engine in each process: workers that are spawned, or that load it after they were forked"


class Resident:
    """Something that holds native threads and memory: it cannot be pickled or copied, and a fork of its process has its
    memory without its threads."""

    def __init__(self) -> None:
        self._process, self._closed = os.getpid(), False

    def require_alive(self) -> None:
        """Refuse what was closed, or came here by a fork.

        Raises:
            InputError: with the remedy.
        """
        if self._closed:
            raise InputError("this engine is closed", "load it again: load_engine(run)")
        if os.getpid() != self._process:
            told = f"this engine was loaded by process {self._process}, and process {os.getpid()} is a fork of it"
            raise InputError(f"{told}: the threads of a runtime do not survive that", EACH)

    def close(self) -> None:
        """Let go of threads and memory now; calls are refused from then on. No thread may be in a step."""
        process = self._process
        vars(self).clear()
        self._process, self._closed = process, True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def __reduce_ex__(self, protocol: Any) -> NoReturn:
        raise InputError(
            f"{type(self).__name__} cannot be pickled or copied: it is threads and memory of a process", EACH
        )
