"""The GPU as CUDA sees it, asked before any TensorRT object is made: on a machine without one those crash.

The driver's own library answers, by ctypes: it is there wherever a GPU can be used, and no package is needed.
"""

import ctypes
import sys
from dataclasses import dataclass
from functools import cache

from ptq_export.errors import EnvironmentMissing

__all__ = ["Gpu", "count_gpus", "describe_gpu", "missing_gpu"]

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
MAJOR, MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR
NO_DEVICE = 100  # CUDA_ERROR_NO_DEVICE


@dataclass(frozen=True)
class Gpu:
    """One GPU: `capability` is (major, minor), `driver_cuda` the newest CUDA that its driver serves, e.g. `13.0`."""

    name: str
    capability: tuple[int, int]
    driver_cuda: str
    pci_bus_id: str

    @property
    def sm(self) -> str:
        """`sm86` for compute capability 8.6."""
        return f"sm{self.capability[0]}{self.capability[1]}"

    @property
    def label(self) -> str:
        """What a plan is bound to, e.g. `NVIDIA GeForce RTX 4090, sm89`."""
        return f"{self.name}, {self.sm}"


def missing_gpu() -> str:
    """Why CUDA offers no GPU to this process; empty where it offers one."""
    return _count()[1]


def count_gpus() -> int:
    """How many GPUs this process may use (`CUDA_VISIBLE_DEVICES` counts); 0 without a driver."""
    return _count()[0]


@cache
def describe_gpu(index: int = 0) -> Gpu:
    """The GPU of that index.

    Raises:
        EnvironmentMissing: there is none.
    """
    count, missing = _count()
    if missing or index >= count:
        raise EnvironmentMissing(missing or f"there is no GPU {index}", "run this where an NVIDIA GPU is")
    driver = ctypes.CDLL(DRIVER)
    name, bus = ctypes.create_string_buffer(256), ctypes.create_string_buffer(32)
    _check(driver.cuDeviceGetName(name, len(name), index))
    _check(driver.cuDeviceGetPCIBusId(bus, len(bus), index))
    attributes = []
    for attribute in (MAJOR, MINOR):
        value = ctypes.c_int()
        _check(driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, index))
        attributes.append(value.value)
    version = ctypes.c_int()
    _check(driver.cuDriverGetVersion(ctypes.byref(version)))
    cuda = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(), (attributes[0], attributes[1]), cuda, bus.value.decode())


@cache
def _count() -> tuple[int, str]:
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError:
        return 0, "there is no NVIDIA driver on this machine"
    code = driver.cuInit(0)
    if code:
        return (
            0,
            "the NVIDIA driver finds no GPU" if code == NO_DEVICE else f"the NVIDIA driver fails: CUDA error {code}",
        )
    count = ctypes.c_int()
    _check(driver.cuDeviceGetCount(ctypes.byref(count)))
    return count.value, "" if count.value else "the NVIDIA driver finds no GPU"


def _check(code: int) -> None:
    if code:
        raise EnvironmentMissing(f"the NVIDIA driver fails: CUDA error {code}", "see what nvidia-smi says")
