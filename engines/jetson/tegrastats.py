"""Power from `tegrastats`, JetPack's own monitor: which rails a line shows, and what the whole module draws.

A rail is printed as `NAME current/average`, with `mW` behind both since JetPack 5, and with a third value since JetPack
7, the greatest. Everything else with a slash (memory, temperatures) has other units.
"""

from __future__ import annotations

import re
import subprocess
import threading
import time
from typing import Any

__all__ = ["MODULE_RAILS", "Sampler", "module_power_mw", "rails_mw"]

MODULE_RAILS = (
    ("VIN",),
    ("VDD_IN",),
    ("POM_5V_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
"""Rails that add up to the module, by board: Thor; Xavier NX, Orin NX and Nano; Nano; AGX Orin; AGX Xavier."""

PATIENCE_S = 5.0
_RAIL = re.compile(r"(?<!\S)([A-Za-z]\w*) (-?\d+)(?:mW)?/-?\d+(?:mW)?(?:/-?\d+(?:mW)?)?(?!\S)")


def rails_mw(line: str) -> dict[str, int]:
    """Present power of every rail in a line of `tegrastats`, in milliwatts; unconnected ones (`NC`) are left out."""
    return {name: int(current) for name, current in _RAIL.findall(line) if name != "NC"}


def module_power_mw(rails: dict[str, int]) -> tuple[int, tuple[str, ...]] | None:
    """What the module draws, in milliwatts, and the rails that were added; None where no known board has these."""
    for names in MODULE_RAILS:
        if all(name in rails for name in names):
            return sum(rails[name] for name in names), names
    return None


class Sampler:
    """`tegrastats` in the background, its lines with the time when they came.

    Raises (from `start`):
        OSError: there is no such program.
    """

    def __init__(self, interval_ms: int, program: str = "tegrastats") -> None:
        self.interval_ms = interval_ms
        self.program = program
        self._lines: list[tuple[float, str]] = []
        self._process: Any = None
        self._reader: Any = None

    def start(self) -> None:
        """Begin to listen; returns with the first line, at the program's end, or after some seconds of silence."""
        command = [self.program, "--interval", str(self.interval_ms)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        patience = time.monotonic() + PATIENCE_S + self.interval_ms / 1000
        while not self._lines and self._process.poll() is None and time.monotonic() < patience:
            time.sleep(0.01)

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
