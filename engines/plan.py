"""TensorRT plans, built from ONNX: by TensorRT on the GPU that will run them, by TensorRT for RTX without any GPU.

TensorRT for RTX builds ahead of time, by default for compute capability 8.0 and newer, and finishes the work when the
plan is loaded (https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html). Its parser
and builder are TensorRT's relatives: what they accept is a strong hint for TensorRT itself, and no proof.
"""

import json
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ptq_export.engines import build_plan
from ptq_export.errors import EnvironmentMissing, GateFailed
from ptq_export.graph.scopes import module_path

__all__ = ["RTX", "Plan", "make_plan"]

RTX = "tensorrt_rtx"
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


def make_plan(package: str, source: Path, plan: Path, batch: tuple[int, int, int], graph: ir.Model) -> Plan:
    """Write `plan`, the plan of the file `source` (whose graph is `graph`) for batches from `batch[0]` to `batch[2]`.

    Raises:
        EnvironmentMissing: `package` is too old, or finds no GPU and needs one.
        GateFailed: the parser or the builder refuses the graph, or crashes: their own messages, with the modules that
            the nodes in them came from.
    """
    arguments = [str(source), "--plan", str(plan), "--batch", ":".join(map(str, batch)), "--package", package]
    command = [sys.executable, str(build_plan.__file__), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [*done.stdout.splitlines(), *done.stderr.splitlines()]
    log = [line for line in lines if line and not any(noise in line for noise in _NOISE)]
    if done.returncode == build_plan.UNUSABLE:
        raise EnvironmentMissing(log[-1] if log else f"{package} cannot be used", "")
    if done.returncode:
        raise GateFailed(f"{package} refuses {source.name}:\n{_messages(log, done.returncode, graph)}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    warnings = tuple(dict.fromkeys(line.partition("[W]")[2].strip() for line in log if "[W]" in line))
    return Plan(package, found["version"], plan.stat().st_size, found["seconds"], warnings)


def _messages(log: list[str], code: int, graph: ir.Model) -> str:
    errors = list(dict.fromkeys(line for line in log if "[E]" in line)) or log[-3:]
    if code < 0:
        errors.append(f"it crashed ({signal.Signals(-code).name})")
    words = set(re.findall(r"[\w./]+", " ".join(errors)))
    paths = {node.name: module_path(node) for node in graph.graph if node.name in words}
    named = [f"{name} is part of {path}" for name, path in paths.items() if path and path != name]
    return "\n".join(f"  {line}" for line in [*errors, *named])
