"""A peer: another way to make, from the FP32 graph and the pairs, something that a runtime on this CPU executes."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from ptq_export.benchmarks.peers.runtimes import RUNTIMES
from ptq_export.benchmarks.peers.subject import Subject

__all__ = ["Entry", "Peer", "slug"]


@dataclass(frozen=True)
class Peer:
    """Another tool's quantiser with its settings: one of the forms that the tool offers.

    Attributes:
        name: As the tables say it.
        tool: Whose form it is.
        quantise: Called with the subject and a path: writes its model there, in a process of its own. What it does
            once per process (importing its package) is outside the time to quantise.
        file: The file name of the model.
        runtimes: Who executes it: keys of `runtimes.RUNTIMES`; the first is the one that its makers had in mind.
        packages: Distributions that decide the result; their versions are recorded.
        modules: What must be importable, and is imported before the clock starts.
        install: What pip is asked for.
        is_default: Whether the tool does this unless told otherwise.
    """

    name: str
    tool: str
    quantise: Callable[[Subject, Path], None]
    file: str
    runtimes: tuple[str, ...]
    packages: tuple[str, ...]
    modules: tuple[str, ...]
    install: str
    is_default: bool = False

    @property
    def missing(self) -> str:
        """Why it cannot run here; empty where it can."""
        absent = [module for module in self.modules if not _is_installed(module)]
        if absent:
            return f"not installed: pip install {self.install}"
        reasons = [RUNTIMES[name].missing for name in self.runtimes]
        return reasons[0] if all(reasons) else ""

    @property
    def versions(self) -> dict[str, str]:
        """Of its packages, as they are installed."""
        return {name: found for name in self.packages if (found := _version(name))}


@dataclass(frozen=True)
class Entry:
    """One row of the tables: a model in a file (None: the network itself, in torch) and the runtime that executes it.

    `seconds` is the time to quantise, `size_bytes` that of the model's files; `own` marks ours. A peer's has the `tool`
    that made it, and `is_default` where the tool makes it unless told otherwise, on the runtime that its makers had in
    mind.
    """

    name: str
    runtime: str
    file: Path | None
    seconds: float | None = None
    size_bytes: int | None = None
    own: bool = False
    is_float: bool = False
    tool: str = ""
    is_default: bool = False


def slug(name: str) -> str:
    """A peer's name as a folder's."""
    return "".join(letter if letter.isalnum() else "-" for letter in name).strip("-").lower()


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
