"""Energy of a step on a GPU, by NVML (nvidia-ml-py): the board's own counter, or its power added up over time.

It is the whole board's, memory and idle current included, over steps that follow each other without a pause.
"""

import time
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import numpy as np

__all__ = ["energy_meter", "integrate_mj"]

SECONDS = 2.0  # the counter and the power are refreshed about ten times a second
POWER_PERIOD_S = 0.05


def energy_meter(pci_bus_id: str) -> Callable[[Callable[[], object]], float | None] | None:
    """A function that repeats a call for two seconds and tells the millijoules of one; it tells None, and there is no
    such function, where NVML does not know."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        board = nvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id)
    except nvml.NVMLError:
        return None
    return lambda call: _by_counter(nvml, board, call) or _by_power(nvml, board, call)


def integrate_mj(times_s: Sequence[float], power_mw: Sequence[float]) -> float:
    """Millijoules between the first and the last of the moments at which the power was read, by trapezoids."""
    return float(np.trapezoid(power_mw, times_s))


def _by_counter(nvml: Any, board: Any, call: Callable[[], object]) -> float | None:
    try:
        before = nvml.nvmlDeviceGetTotalEnergyConsumption(board)
    except nvml.NVMLError:  # boards older than Volta have no counter
        return None
    calls = _repeat(call, lambda: None)
    return float(nvml.nvmlDeviceGetTotalEnergyConsumption(board) - before) / calls


def _by_power(nvml: Any, board: Any, call: Callable[[], object]) -> float | None:
    times_s: list[float] = []
    power_mw: list[float] = []

    def read() -> None:
        power_mw.append(nvml.nvmlDeviceGetPowerUsage(board))
        times_s.append(time.monotonic())

    try:
        calls = _repeat(call, read)
    except nvml.NVMLError:
        return None
    return integrate_mj(times_s, power_mw) / calls


def _repeat(call: Callable[[], object], read: Callable[[], None]) -> int:
    """Call for `SECONDS`, reading at the beginning, at the end and now and then between; the number of calls."""
    read()
    started = last = time.monotonic()
    calls = 0
    while (now := time.monotonic()) - started < SECONDS:
        call()
        calls += 1
        if now - last > POWER_PERIOD_S:
            read()
            last = now
    read()
    return calls
