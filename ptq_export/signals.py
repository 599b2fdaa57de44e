"""SIGINT, SIGTERM and SIGHUP end a command at once: a message, nothing of ours left behind, exit code 128 + number.

Python calls a signal's handler between two bytecodes of the main thread, and what it raises there unwinds the command
in the usual way. That comes late in a long call of native code, and a library may swallow it: so a watcher, woken
through a pipe by the interpreter's own C handler, ends the process where the main thread has not within `GRACE_S`.
The second signal kills. A signal that was ignored when the command began (nohup, a shell's background) stays ignored.
"""

import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

__all__ = ["SIGNALS", "Interrupted", "announce", "at_forced_end", "end_now", "ends_on_signals", "interrupted_note"]

GRACE_S = 1.0
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
SHOW_CURSOR = b"\x1b[?25h"


class Interrupted(BaseException):
    """A signal asked the command to end. Not a `KeyboardInterrupt`: libraries have their own ideas about that."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class _State:
    """What the watcher needs to know of the command: what to say, and what to remove."""

    note = "interrupted"
    said = False
    number = 0
    removals: list[Callable[[], None]] = []  # noqa: RUF012 (one process, one command)


def interrupted_note(text: str) -> None:
    """Let an interruption be told as `text`."""
    _State.note = text


def at_forced_end(remove: Callable[[], None]) -> None:
    """Have `remove` called where the process ends without unwinding."""
    _State.removals.append(remove)


def announce(say: Callable[[str], object]) -> None:
    """Tell the interruption, once."""
    if not _State.said:
        _State.said = True
        with suppress(OSError):  # the terminal has gone
            say(_State.note)


@contextmanager
def ends_on_signals() -> Iterator[None]:
    """End the process as this module promises when a signal arrives in the block, which is the whole command."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), daemon=True, name="signals").start()
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _raise)
    try:
        yield
    except Interrupted as end:
        announce(_write)
        _State.number = end.exit_code - 128
    finally:
        _let_signals_kill()
        if _State.number:  # taking the interpreter down after all those imports takes seconds
            end_now(_State.number)


def _raise(number: int, _: FrameType | None) -> NoReturn:
    _State.number = number
    _let_signals_kill()
    raise Interrupted(number)


def _let_signals_kill() -> None:
    for number in SIGNALS:
        if signal.getsignal(number) is _raise:
            signal.signal(number, signal.SIG_DFL)


def _watch(reader: int) -> None:
    number = 0
    while number not in SIGNALS:  # others that have a handler come through the pipe, too
        number = os.read(reader, 1)[0]
    select.select([reader], [], [], GRACE_S)
    end_now(number)


def end_now(number: int) -> NoReturn:
    """End the process, and those that it started."""
    for child in _children():
        with suppress(OSError):
            os.kill(child, signal.SIGKILL)
    for remove in _State.removals:
        with suppress(OSError):
            remove()
    with suppress(OSError):
        if os.isatty(2):
            os.write(2, SHOW_CURSOR)
    announce(_write)
    os._exit(128 + number)


def _children() -> list[int]:
    """Process ids; without psutil where it would have to be imported first: then nothing was started yet."""
    psutil: Any = sys.modules.get("psutil")
    if psutil is None:
        return []
    try:
        return [child.pid for child in psutil.Process().children(recursive=True)]
    except psutil.Error:
        return []


def _write(text: str) -> None:
    os.write(2, f"{text}\n".encode() if text else b"")
