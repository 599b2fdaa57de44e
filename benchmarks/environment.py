"""What a latency depends on besides the model: processor, instruction sets, versions, and what else was running."""

import os
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

from ptq_export.processor import instruction_sets, processor_name

__all__ = ["Environment", "describe_environment", "package_versions"]

PACKAGES = ("torch", "onnx", "onnxruntime", "diffusers", "numpy", "ptq-export")


@dataclass(frozen=True)
class Environment:
    """The machine and its software; `threads` are the logical processors this process may use, `gpu` is what an
    engine on one runs on.

    `isa` lists the instruction sets that decide the choice of kernels; `load_average` is the mean number of
    runnable tasks over the last 1, 5 and 15 minutes.
    """

    cpu: str
    isa: tuple[str, ...]
    cores: int
    threads: int
    os: str
    python: str
    versions: dict[str, str]
    load_average: tuple[float, ...]
    gpu: str = ""

    def to_json(self) -> dict[str, Any]:
        """`environment` in `latency.json` and `manifest.json`."""
        value = asdict(self) | {"isa": list(self.isa), "load_average": list(self.load_average)}
        return value if self.gpu else {key: it for key, it in value.items() if key != "gpu"}


def describe_environment(gpu: str = "", runtime: Iterable[str] = ()) -> Environment:
    """The environment at this moment; `runtime` are the distributions of what runs the engines."""
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Environment(
        cpu=processor_name(),
        isa=instruction_sets(),
        cores=psutil.cpu_count(logical=False) or threads,
        threads=threads,
        os=_operating_system(),
        python=platform.python_version(),
        versions=package_versions(runtime),
        load_average=tuple(round(load, 2) for load in psutil.getloadavg()),
        gpu=gpu,
    )


def package_versions(runtime: Iterable[str] = ()) -> dict[str, str]:
    """Installed versions of the packages that decide a graph's bytes and, with those of its `runtime`, an engine's."""
    versions = {}
    for name in dict.fromkeys((*PACKAGES, *runtime)):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _operating_system() -> str:
    """The distribution's name where there is one: a kernel's build says little about latency."""
    try:
        name = platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        name = f"{platform.system()} {platform.release()}"
    return f"{name}, {platform.machine()}"
