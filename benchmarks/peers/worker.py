"""A process of its own for what should not disturb, or be disturbed: a quantiser, or the models of one runtime.

Thread pools of different runtimes in one process take each other's cores; a peer that crashes takes its process along.
"""

import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from ptq_export.errors import PtqExportError

__all__ = ["PeerFailed", "Worker"]

Arguments = ParamSpec("Arguments")
Answer = TypeVar("Answer")
PATIENCE_S = 10.0


class PeerFailed(PtqExportError):
    """What a worker was asked for did not work out; the cause is the first line of its own error."""

    exit_code = 3


class Worker:
    """A fresh Python that calls functions (of the top level of modules) one after the other.

    What they print, and the traces of their errors, go to the file `log`. Use it as a context: the process ends with
    the block.
    """

    def __init__(self, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, str(log)), daemon=True)
        self._process.start()
        theirs.close()

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, function: Callable[Arguments, Answer], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Answer:
        """What `function` answers there.

        Raises:
            PeerFailed: it raised an error, or the process ended.
        """
        try:
            self._connection.send((function, args, kwargs))
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            self._process.join(PATIENCE_S)
            cause = f"its process ended with exit code {self._process.exitcode}"
            raise PeerFailed(cause, f"see {self._log}") from error
        if isinstance(answer, _Refusal):
            raise PeerFailed(answer.text, f"see {self._log}")
        result: Answer = answer
        return result

    def close(self) -> None:
        """End the process."""
        self._connection.close()
        self._process.join(PATIENCE_S)
        if self._process.is_alive():
            self._process.terminate()


@dataclass(frozen=True)
class _Refusal:
    text: str


def _serve(connection: "Connection[Any, Any]", log: str) -> None:
    """The child's side: answer until the other end is closed."""
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    while True:
        try:
            function, args, kwargs = connection.recv()
        except EOFError:
            return
        try:
            connection.send(function(*args, **kwargs))
        except Exception as error:  # Whatever a peer raises is its result.
            traceback.print_exc()
            first = next((line for line in str(error).splitlines() if line.strip()), "")
            connection.send(_Refusal(f"{type(error).__name__}: {first}"))
