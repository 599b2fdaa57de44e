"""Energy of a step on a GPU, by NVML (nvidia-ml-py): the board's own counter, or its power added up over time.

It is the whole board's, memory and idle current included, over single steps that follow each other without a pause:
nobody waits for one of them before the last has been asked for.
"""

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np

__all__ = ["Meter", "StepLoop", "energy_meter", "integrate_mj", "per_step_mj"]

SECONDS = 2.0  # the counter and the power are refreshed about ten times a second
TRIAL_STEPS = 8
POWER_PERIOD_S = 0.05
StepLoop = Callable[[int], object]
"""Computes that many steps, one behind the other, and ends when the last is done."""
Meter = Callable[[StepLoop], float | None]
"""Tells the millijoules of one step of a loop; None where they are not known."""


def energy_meter(pci_bus_id: str) -> Meter | None:
    """A meter that lets a loop run for about two seconds; None where NVML does not know the board."""
    try:
        nvml = import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        board = nvml.nvmlDeviceGetHandleByPciBusId(pci_bus_id)
    except nvml.NVMLError:
        return None
    return lambda loop: per_step_mj(nvml, board, loop)


def integrate_mj(times_s: Sequence[float], power_mw: Sequence[float]) -> float:
    """Millijoules between the first and the last of the moments at which the power was read, by trapezoids."""
    return float(np.trapezoid(power_mw, times_s))


def per_step_mj(nvml: Any, board: Any, loop: StepLoop) -> float | None:
    """Millijoules of a step on an NVML board: by its counter, else by its power; None where it tells neither."""
    steps = _steps_of(loop, SECONDS)
    found_mj = _by_counter(nvml, board, loop, steps)
    return _by_power(nvml, board, loop, steps) if found_mj is None else found_mj


def _steps_of(loop: StepLoop, seconds: float) -> int:
    """How many steps take that long, from a few that come first and warm up."""
    loop(TRIAL_STEPS)
    started = time.monotonic()
    loop(TRIAL_STEPS)
    return max(TRIAL_STEPS, math.ceil(TRIAL_STEPS * seconds / max(time.monotonic() - started, 1e-6)))


def _by_counter(nvml: Any, board: Any, loop: StepLoop, steps: int) -> float | None:
    try:
        before = nvml.nvmlDeviceGetTotalEnergyConsumption(board)
    except nvml.NVMLError:  # boards older than Volta have no counter
        return None
    loop(steps)
    spent_mj = nvml.nvmlDeviceGetTotalEnergyConsumption(board) - before
    return float(spent_mj) / steps if spent_mj > 0 else None  # a counter that stands still tells nothing


def _by_power(nvml: Any, board: Any, loop: StepLoop, steps: int) -> float | None:
    times_s: list[float] = []
    power_mw: list[float] = []

    def read() -> None:
        power_mw.append(nvml.nvmlDeviceGetPowerUsage(board))
        times_s.append(time.monotonic())

    try:
        with _beside(read, nvml.NVMLError):
            loop(steps)
    except nvml.NVMLError:
        return None
    return integrate_mj(times_s, power_mw) / steps


@contextmanager
def _beside(read: Callable[[], None], error: type[Exception]) -> Iterator[None]:
    """Read at the beginning, at the end, and in a thread now and then between: the loop is not held up."""
    read()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(POWER_PERIOD_S):
            try:
                read()
            except error:  # one reading less
                continue

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    read()
