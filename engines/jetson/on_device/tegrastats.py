"""Power from `tegrastats`, JetPack's own monitor: which rails a line shows.

A rail is printed as `NAME current/average`, with `mW` behind both since JetPack 5, and with a third value since JetPack
7, the greatest. Everything else with a slash (memory, temperatures) has other units.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from typing import Any

__all__ = ["PROGRAM", "Monitor", "rails_mw"]

PROGRAM = "tegrastats"
PATIENCE_S = 5.0
_RAIL = re.compile(r"(?<!\S)([A-Za-z]\w*) (-?\d+)(?:mW)?/-?\d+(?:mW)?(?:/-?\d+(?:mW)?)?(?!\S)")


def rails_mw(line: str) -> dict[str, int]:
    """Present power of every rail in a line of `tegrastats`, in milliwatts; unconnected ones (`NC`) are left out."""
    return {name: int(current) for name, current in _RAIL.findall(line) if name != "NC"}


class Monitor:
    """`tegrastats` in the background, its lines with the time when they came.

    Raises (from `start`):
        OSError: there is no such program.
    """

    def __init__(self, interval_ms: int, program: str = PROGRAM) -> None:
        self.interval_ms = interval_ms
        self.program = program
        self._lines: list[tuple[float, str]] = []
        self._process: Any = None
        self._reader: Any = None

    def start(self) -> dict[str, int]:
        """Begin to listen; the rails of the first line, none where there is none: the program has ended, or said
        nothing for some seconds."""
        command = [self.program, "--interval", str(self.interval_ms)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        patience = time.monotonic() + PATIENCE_S + self.interval_ms / 1000
        while not self._lines and self._process.poll() is None and time.monotonic() < patience:
            time.sleep(0.01)
        return rails_mw(self._lines[0][1]) if self._lines else {}

    def stop(self) -> None:
        """End the program; its lines stay."""
        self._process.terminate()
        self._process.wait()
        self._reader.join()

    def between(self, begin: float, end: float) -> list[dict[str, int]]:
        """The rails of every line that came between two values of `time.monotonic()`."""
        return [rails_mw(line) for moment, line in list(self._lines) if begin <= moment <= end]

    def _read(self) -> None:
        for line in self._process.stdout:
            self._lines.append((time.monotonic(), line))
