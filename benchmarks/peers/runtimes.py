"""Who executes a model, each in its best form: for one batch size, with a given number of threads."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from ptq_export.benchmarks.peers.subject import Subject
from ptq_export.engines.registry import availability
from ptq_export.processor import adds_in_16_bits, instruction_sets

__all__ = ["RUNTIMES", "Call", "Feeds", "Opened", "Runtime"]

Feeds: TypeAlias = Mapping[str, NDArray[Any]]
Call: TypeAlias = Callable[[Feeds], NDArray[Any]]
"""eps `[N, C, H, W]` of all inputs by name."""


@dataclass(frozen=True)
class Opened:
    """A model that is ready, and how many of the FP32 graph's convs and linears it computes in int8."""

    call: Call
    int8_layers: int


class _Open(Protocol):
    def __call__(self, subject: Subject, file: Path | None, cache: Path, batch: int, threads: int) -> Opened: ...


@dataclass(frozen=True)
class Runtime:
    """A runtime; those of one `family` share a worker process, since their threads know of each other.

    One with `exact_sums` differs only where others add in 16 bits, and is served nowhere else.
    """

    label: str
    family: str
    kind: str
    module: str
    function: str
    options: tuple[tuple[str, str | bool], ...] = ()
    exact_sums: bool = False

    @property
    def missing(self) -> str:
        """Why it cannot run here; empty where it can."""
        if self.exact_sums and not adds_in_16_bits(instruction_sets()):
            return "this processor adds int8 products in 32 bits: there it is the same as without"
        here, missing = availability(self.kind) if self.kind else (True, "")
        return "" if here else missing

    def open(self, subject: Subject, file: Path | None, cache: Path, batch: int, threads: int) -> Opened:
        """The model of `file` (None: the network itself); what can be kept of opening it is kept in `cache`."""
        function: _Open = partial(getattr(import_module(self.module), self.function), **dict(self.options))
        return function(subject, file, cache, batch, threads)


_HERE = "ptq_export.benchmarks.peers"
RUNTIMES = {
    "ort": Runtime("ONNX Runtime", "ort", "ort", f"{_HERE}.run_ort", "open_ort", (("operators", False),)),
    "ort-u8u8": Runtime(
        "ONNX Runtime, x64quantprecision",
        "ort",
        "ort",
        f"{_HERE}.run_ort",
        "open_ort",
        (("operators", False), ("exact_sums", True)),
        exact_sums=True,
    ),
    "ort-operators": Runtime(
        "ONNX Runtime, our operators", "ort", "ort", f"{_HERE}.run_ort", "open_ort", (("operators", True),)
    ),
    "openvino": Runtime(
        "OpenVINO", "openvino", "openvino", f"{_HERE}.run_openvino", "open_openvino", (("precision", "f32"),)
    ),
    "openvino-bf16": Runtime(
        "OpenVINO bf16", "openvino", "openvino-bf16", f"{_HERE}.run_openvino", "open_openvino", (("precision", "bf16"),)
    ),
    "torch-eager": Runtime("torch eager", "torch", "", f"{_HERE}.run_torch", "open_eager"),
    "torch-compile": Runtime("torch.compile", "torch", "", f"{_HERE}.run_torch", "open_compiled"),
}
