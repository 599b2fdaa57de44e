"""What a runtime says of itself: what it needs, what it takes, what it does to a graph, checks and delivers.

A package in `engines/` describes itself by one object of `Runtime` per engine kind, in its `runtime.py`, which imports
the runtime itself only when an engine is asked for. Nothing else in this project knows runtimes apart.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import onnx_ir as ir

from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.errors import EnvironmentMissing
from ptq_export.graph.prompt_file import save_split
from ptq_export.interface import Input
from ptq_export.nn.scheme import FloatDtype

if TYPE_CHECKING:
    from ptq_export.run_folder import RunFolder

__all__ = ["Order", "Runtime", "is_installed"]


@dataclass(frozen=True)
class Order:
    """What a runtime is asked to check and to deliver: the graph `onnx` in a run folder, for a target of that name.

    Attributes:
        options: The runtime's own.
        check: `rtx` where a proof on TensorRT for RTX was asked for, `none` where none is wanted.
        stage: Times a stage of that name and shows its progress.
        message: Tells the user something.
    """

    target: str
    onnx: str
    folder: "RunFolder"
    options: EngineOptions
    check: str | None
    inputs: Sequence[Input]
    num_train_timesteps: int
    stage: Callable[[str], AbstractContextManager[Any]]
    message: Callable[[str], None]

    @property
    def source(self) -> Path:
        """The graph's file."""
        return self.folder.path / self.onnx

    def not_built(self, cause: str, command: str) -> EnvironmentMissing:
        """That the engine could not be built here, and the command that builds it where it will run."""
        return EnvironmentMissing(
            f"{self.target} cannot be built on this machine: {cause}",
            f"the ONNX file is finished and proved; copy {self.folder.path} to the machine that will serve it and run "
            f"there: {command}",
        )


@dataclass(frozen=True)
class Runtime:
    """One engine kind.

    Attributes:
        name: What targets call it.
        modules: That must be installed; the first is the runtime itself.
        install: What pip is asked for.
        distributions: As pip names them, on whose versions its engines depend; not all of them need be here.
        takes: The flags of the main job that mean something for it, of those that do not for all.
        device: What its engines run on.
        gpu: Which GPU it wants, e.g. `an NVIDIA GPU`.
    """

    name: str
    modules: tuple[str, ...]
    install: str
    distributions: tuple[str, ...]
    takes: frozenset[str] = frozenset({"--tune"})
    device: Literal["cpu", "gpu"] = "cpu"
    gpu: str = ""
    options: ClassVar[type[EngineOptions]] = EngineOptions

    def engine(self) -> type[Engine]:
        """The class of its engines, where nothing is missing."""
        raise NotImplementedError

    def build(
        self, source: Path, cache: Path, options: EngineOptions | None = None, sha256: str | None = None
    ) -> Engine:
        """The engine of `source` (ONNX, of that sha256 where given); what can be kept of the build is kept in `cache`.

        Raises:
            EnvironmentMissing: this machine lacks what it needs.
            InputError: `source` or the options cannot be used.
        """
        if missing := self.missing():
            raise missing
        engine: Callable[..., Engine] = self.engine()
        return engine(source, cache, options, sha256)

    def options_from(self, given: Mapping[str, Any]) -> EngineOptions:
        """Its own options, of those that `given` names."""
        return self.options(**{each.name: given[each.name] for each in fields(self.options) if each.name in given})

    def missing(self, options: EngineOptions | None = None) -> EnvironmentMissing | None:
        """What this machine lacks for its engines, built with `options`, and the remedy; None where nothing is."""
        for module in self.modules:
            if not is_installed(module):
                needs = f" (it needs {self.gpu})" if self.gpu else ""
                cause = f"the package {module} is not installed"
                return EnvironmentMissing(cause, f"pip install {self.install}{needs}")
        return self.missing_beside(options)

    def missing_beside(self, options: EngineOptions | None) -> EnvironmentMissing | None:
        """What is missing where its modules are installed: a GPU, say."""
        return None

    def advice(self) -> str:
        """What would make its engines faster here; empty where nothing would."""
        return ""

    def recommendation(self) -> str:
        """Why to prefer its int8 engines on this machine, where that was measured; empty where it is not known."""
        return ""

    def version(self) -> str:
        """Of the runtime, as it tells it itself, and of other parts on which its speed depends."""
        return str(import_module(self.modules[0]).__version__)

    def float_dtype(self, options: EngineOptions, scheme: FloatDtype) -> FloatDtype:
        """The type of everything in its graph that is not int8, in a scheme of that type."""
        return scheme

    def passes(self, options: EngineOptions, float_dtype: FloatDtype) -> tuple[ir.passes.PassBase, ...]:
        """What brings an int8 graph into the form that it takes."""
        return ()

    def write(self, graph: ir.Model, path: Path) -> None:
        """Write a finished graph as its engines take it: what conditions alone decide in a file of its own."""
        save_split(graph, path)

    def check_inputs(self, target: str, inputs: Sequence[Input]) -> None:
        """Refuse inputs that engines for that target cannot be built for.

        Raises:
            InputError: with the sizes that are the reason.
        """

    def require(self, check: str | None) -> None:
        """Make sure, before any work, that a check which was asked for can be made.

        Raises:
            EnvironmentMissing: it cannot.
        """

    def check(self, order: Order, graph: ir.Model) -> None:
        """Try the graph, before it is proved, and leave what was found in the run folder."""

    def check_is_due(self, order: Order) -> bool:
        """Whether a run that is finished wants its check again."""
        return False

    def failures(self, order: Order) -> list[str]:
        """What its check found that must not be."""
        return []

    def runs_here(self, order: Order) -> bool:
        """Whether its engine can be built and run on this machine, as far as was tried."""
        return self.missing(order.options) is None

    def deliver(self, order: Order, graph: ir.Model) -> None:
        """Put beside the graph what is needed where it will run."""

    def undelivered(self, order: Order) -> EnvironmentMissing | None:
        """Why a proved engine could not be built on this machine, where that is no matter; None where it stands."""
        return None


def is_installed(module: str) -> bool:
    """Whether a module, or a part of one, could be imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that it is part of
        return False
