"""The command `ptq-export`, also as `python -m ptq_export`: it hears signals before anything slow is imported."""

import signal

if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # which ends in a trace, here in an import
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import os
import sys
from io import TextIOWrapper
from typing import Any

from ptq_export.signals import ends_on_signals

__all__ = ["main"]


def main() -> None:
    """Entry point of the console script."""
    with ends_on_signals():
        _open_streams()
        from ptq_export.cli import main as run_command

        run_command()


def _open_streams() -> None:
    """Have all three: a file opened in the place of a closed one would get what libraries print. What the encoding of
    a stream does not have is shown as an escape."""
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    sys.stdout, sys.stderr = (stream or os.fdopen(os.open(os.devnull, os.O_WRONLY), "w") for stream in _streams())
    for stream in _streams():
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _streams() -> list[Any]:
    return [sys.stdout, sys.stderr]


if __name__ == "__main__":
    main()
