"""TensorRT plans, built from ONNX: by TensorRT on the GPU that will run them, by TensorRT for RTX without any GPU.

TensorRT for RTX builds ahead of time, by default for compute capability 8.0 and newer, and finishes the work when the
plan is loaded (https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html). Its parser
and builder are TensorRT's relatives: what they accept is a strong hint for TensorRT itself, and no proof.
"""

import io
import json
import re
import signal
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ptq_export.engines.trt import build_plan
from ptq_export.engines.trt.callbacks import messages_to
from ptq_export.errors import EnvironmentMissing, GateFailed
from ptq_export.graph.model_file import load_model
from ptq_export.graph.scopes import module_path

__all__ = ["RTX", "BuilderSettings", "Plan", "make_plan", "make_plan_here"]

RTX = build_plan.RTX
# What TensorRT for RTX says on every machine without a GPU, and TensorRT's echo of the node that it names anyway.
_NOISE = ("cudaError 35", "--- Begin node", "--- End node")


@dataclass(frozen=True)
class Plan:
    """A plan that was built, with what the builder warned of."""

    package: str
    version: str
    size_bytes: int
    seconds: float
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class BuilderSettings:
    """What the builder is told: search from `builder_level` 0 (fast) to 5 (thorough), take at most `workspace_mib` of
    scratch memory, build for these compute capabilities (TensorRT for RTX, e.g. `8.6`); None and () are its defaults.
    """

    builder_level: int | None = None
    workspace_mib: int | None = None
    compute_capabilities: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """As `build_plan.py` wants to hear it."""
        given = {
            "--builder-level": self.builder_level,
            "--workspace": self.workspace_mib,
            "--compute-capability": ",".join(self.compute_capabilities) or None,
        }
        return [word for flag, value in given.items() if value is not None for word in (flag, str(value))]

    def identity(self) -> dict[str, Any]:
        """What was told, for a plan's sidecar."""
        given = {"builder_level": self.builder_level, "workspace_mib": self.workspace_mib}
        told: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        names = self.compute_capabilities
        return told | {"compute_capabilities": list(names)} if names else told


def make_plan(
    package: str,
    source: Path,
    plan: Path,
    batch: tuple[int, int, int],
    graph: ir.Model | None = None,
    settings: BuilderSettings | None = None,
) -> Plan:
    """Write `plan`, the plan of the file `source` for batches from `batch[0]` to `batch[2]`.

    `graph` is the content of `source`, where it is at hand. TensorRT's timings of kernels are kept beside the plan.

    Raises:
        EnvironmentMissing: `package` is too old, or finds no GPU and needs one.
        GateFailed: the parser or the builder refuses the graph, or crashes: their own messages, with the modules that
            the nodes in them came from.
    """
    arguments = [str(source), "--plan", str(plan), "--batch", ":".join(map(str, batch)), "--package", package]
    arguments += (settings or BuilderSettings()).arguments()
    command = [sys.executable, str(build_plan.__file__), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    log = [line for line in lines if line and not any(noise in line for noise in _NOISE)]
    if done.returncode == build_plan.UNUSABLE:
        raise EnvironmentMissing(log[-1] if log else f"{package} cannot be used", "")
    if done.returncode:
        words = _messages(log, done.returncode, graph or load_model(source))
        raise GateFailed(f"{package} refuses {source.name}:\n{words}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    warnings = tuple(dict.fromkeys(line.partition("[W]")[2].strip() for line in log if "[W]" in line))
    return Plan(package, found["version"], plan.stat().st_size, found["seconds"], warnings)


def make_plan_here(trt: Any, source: Path, plan: Path, settings: BuilderSettings) -> None:
    """Write the plan of a graph of fixed shapes in this process, with the package `trt`: at once, and it may crash us.

    Raises:
        EnvironmentMissing: `trt` is too old, or finds no GPU and needs one.
        GateFailed: the parser or the builder refuses the graph.
    """
    heard, logger, builder = _kept_builder(trt)
    heard.clear()
    said = io.StringIO()
    arguments = [str(source), "--plan", str(plan), "--package", trt.__name__, *settings.arguments()]
    with redirect_stdout(said), redirect_stderr(said):
        code = build_plan.main(arguments, logger=logger, builder=builder)
    log = [*said.getvalue().splitlines(), *(f"[E] {message}" for message in heard)]
    if code == build_plan.UNUSABLE:
        raise EnvironmentMissing(log[-1], "")
    if code:
        raise GateFailed(f"{trt.__name__} refuses {source.name}:\n{_messages(log, code, load_model(source))}")


@cache
def _kept_builder(trt: Any) -> tuple[list[str], Any, Any]:
    """What is heard, the logger that hears it, and the one builder of this process: each loads all kernels anew. No
    builder where TensorRT finds no GPU."""
    heard: list[str] = []
    logger = messages_to(trt, heard)
    try:
        return heard, logger, trt.Builder(logger)
    except TypeError:
        return heard, logger, None


def _messages(log: list[str], code: int, graph: ir.Model) -> str:
    errors = list(dict.fromkeys(line for line in log if "[E]" in line)) or log[-3:]
    if code < 0:
        errors.append(f"it crashed ({signal.Signals(-code).name})")
    words = set(re.findall(r"[\w./]+", " ".join(errors)))
    paths = {node.name: module_path(node) for node in graph.graph if node.name in words}
    named = [f"{name} is part of {path}" for name, path in paths.items() if path and path != name]
    return "\n".join(f"  {line}" for line in [*errors, *named])
