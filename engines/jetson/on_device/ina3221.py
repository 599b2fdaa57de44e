"""Power from the INA3221 and INA238 sensors in sysfs, which any user may read, on the module's and carrier's I2C buses.

Two drivers give two layouts below `/sys/bus/i2c/drivers/ina3221*/BUS-ADDRESS/`:

    JetPack 5 and newer   hwmon/hwmonN/     inK_label, inK_input in mV, currK_input in mA       K from 1
    JetPack 4             iio:deviceN/      rail_name_K, in_powerK_input in mW                  K from 0

(https://docs.kernel.org/hwmon/ina3221.html, and NVIDIA's power guides for each release.) An unconnected channel is
called `NC`; one that is switched off cannot be read; the sum of shunt voltages has a label but no current of its own.

Thor's input, the rail that tegrastats calls `VIN`, is behind an INA238 on the carrier board, one rail that its driver
gives no name: `/sys/bus/i2c/drivers/ina238/BUS-ADDRESS/hwmon/hwmonN/power1_input`, in microwatts
(https://docs.kernel.org/hwmon/ina238.html; https://github.com/rbonghi/jetson_stats/pull/900). Two of them would be two
inputs, of which neither is the whole.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

__all__ = ["ROOT", "Monitor", "find_rails"]

ROOT = Path("/")
INPUT = "VIN"
_DRIVERS = "sys/bus/i2c/drivers"


def find_rails(root: Path = ROOT) -> dict[str, Callable[[], int]]:
    """The connected rails that can be read, and for each a function that tells its present power in milliwatts.

    Raises (when called):
        OSError: the sensor does not answer.
    """
    drivers = root / _DRIVERS
    found: dict[str, Callable[[], int]] = {}
    for label in sorted(drivers.glob("ina3221*/*/hwmon/hwmon*/in*_label")):
        channel = label.name[len("in") : -len("_label")]
        found[_text(label)] = _product(label.with_name(f"in{channel}_input"), label.with_name(f"curr{channel}_input"))
    for pattern in ("ina3221*/*/iio:device*/rail_name_*", "ina3221*/*/iio_device/iio:device*/rail_name_*"):
        for label in sorted(drivers.glob(pattern)):
            channel = label.name[len("rail_name_") :]
            found[_text(label)] = _number(label.with_name(f"in_power{channel}_input"))
    inputs = sorted(drivers.glob("ina238*/*/hwmon/hwmon*/power1_input"))
    if len(inputs) == 1:
        found[INPUT] = _number(inputs[0], 1000)
    return {name: read for name, read in found.items() if name not in ("", "NC") and _answers(read)}


class Monitor:
    """The sensors, read again and again in a thread, with the times of the readings.

    Raises (from `start`):
        OSError: a sensor that answered does so no longer.
    """

    def __init__(self, interval_ms: int, root: Path = ROOT) -> None:
        self._interval_s = interval_ms / 1000
        self._root = root
        self._readings: list[tuple[float, dict[str, int]]] = []
        self._over = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._rails: dict[str, Callable[[], int]] = {}

    def start(self) -> dict[str, int]:
        """Begin to read; the power of every rail in milliwatts, none where there is no such sensor."""
        self._rails = find_rails(self._root)
        first = {name: read() for name, read in self._rails.items()}
        self._reader.start()
        return first

    def stop(self) -> None:
        """End the thread; its readings stay."""
        self._over.set()
        self._reader.join()

    def between(self, begin: float, end: float) -> list[dict[str, int]]:
        """The rails at every reading between two values of `time.monotonic()`."""
        return [rails for moment, rails in list(self._readings) if begin <= moment <= end]

    def _read(self) -> None:
        while not self._over.wait(self._interval_s):
            try:
                rails = {name: read() for name, read in self._rails.items()}
            except OSError:  # a bus that is busy: this reading is left out
                continue
            self._readings.append((time.monotonic(), rails))


def _product(millivolts: Path, milliamperes: Path) -> Callable[[], int]:
    return lambda: int(_text(millivolts)) * int(_text(milliamperes)) // 1000


def _number(path: Path, units_per_milliwatt: int = 1) -> Callable[[], int]:
    return lambda: int(_text(path)) // units_per_milliwatt


def _answers(read: Callable[[], int]) -> bool:
    try:
        read()
    except (OSError, ValueError):
        return False
    return True


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii", errors="replace").strip()
