"""The power of the module: which monitor tells it on this Jetson, and which of its rails add up to the whole.

`tegrastats` is asked first, since it knows every board; without it, or where it shows no rail (in a container), the
sensors are read that it reads itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ina3221
import tegrastats

__all__ = ["MODULE_RAILS", "find_monitor", "module_power_mw"]

MODULE_RAILS = (
    ("VIN",),
    ("VDD_IN",),
    ("POM_5V_IN",),
    ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    ("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
)
"""Rails that add up to the module, by board: Thor; Xavier NX, Orin NX and Nano; Nano; AGX Orin; AGX Xavier.

An input rail holds all others: adding them to it would count them twice. The AGX boards have none, and their rails feed
different parts.
"""


def module_power_mw(rails: dict[str, int]) -> tuple[int, tuple[str, ...]] | None:
    """What the module draws, in milliwatts, and the rails that were added; None where no known board has these."""
    for names in MODULE_RAILS:
        if all(name in rails for name in names):
            return sum(rails[name] for name in names), names
    return None


def find_monitor(interval_ms: int, program: str = tegrastats.PROGRAM, root: Path = ina3221.ROOT) -> tuple[Any, str]:
    """A monitor that has begun to listen and knows the module's power, and its name; or None, and what was seen."""
    seen: set[str] = set()
    for name, monitor in (
        (tegrastats.PROGRAM, tegrastats.Monitor(interval_ms, program)),
        ("INA sensors in sysfs", ina3221.Monitor(interval_ms, root)),
    ):
        try:
            rails = monitor.start()
        except OSError:
            continue
        if module_power_mw(rails):
            return monitor, name
        monitor.stop()
        seen |= set(rails)
    known = f"no known set among the rails {', '.join(sorted(seen))}" if seen else "no rail in tegrastats or sysfs"
    return None, f"energy was not measured: {known}"
