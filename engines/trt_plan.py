"""From an ONNX file to a plan that may be loaded here: the one that lies there if its sidecar says so, else a new one.

The sidecar is compared before anything is deserialised: TensorRT answers a plan of another version or GPU with None, or
crashes. A plan of TensorRT is bound to its GPU; one of TensorRT for RTX is not, it is finished when it is loaded.
"""

import logging
import tempfile
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from ptq_export.artifacts import atomic_path
from ptq_export.engines import build_plan
from ptq_export.engines.base import EngineOptions
from ptq_export.engines.device import runtime_version
from ptq_export.engines.gpu import Gpu
from ptq_export.engines.identity import Identity, current, stale_reasons, writable, write_identity
from ptq_export.engines.plan import RTX, Effort, make_plan
from ptq_export.errors import EnvironmentMissing

__all__ = ["PlanRequest", "batch_range", "plan_name", "ready_plan", "workshop"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PlanRequest:
    """A plan of `source` (ONNX of that digest) by a `package` of that version; `gpu` is the one that will run it."""

    package: str
    version: str
    source: Path
    onnx_sha256: str
    batch: tuple[int, int, int]
    effort: Effort
    gpu: Gpu | None

    @property
    def identity(self) -> Identity:
        """What the plan depends on."""
        options = {"batch": list(self.batch)} | {key: it for key, it in asdict(self.effort).items() if it is not None}
        versions = {self.package: self.version}
        if self.package == RTX:
            return current("trt-rtx", versions, self.onnx_sha256, options, isa=())
        device = f"{self.gpu.name}, {self.gpu.sm}" if self.gpu is not None else "no GPU"
        versions["cuda"] = _cuda_version()
        return current("trt", versions, self.onnx_sha256, options, isa=(), device=device)


def batch_range(options: EngineOptions) -> tuple[int, int, int]:
    """Least, usual and largest batch of the plan that `options` ask for."""
    if options.batch is not None:
        return options.batch, options.batch, options.batch
    return options.batches or build_plan.BATCH


def plan_name(source: Path, batch: tuple[int, int, int]) -> str:
    """The plan beside `source` in a run folder."""
    return f"{source.stem}.batch{batch[0]}-{batch[2]}.plan"


def ready_plan(request: PlanRequest, folder: Path) -> Path:
    """A plan with the identity of `request`: beside its source, in `folder`, or built into that folder.

    Raises:
        EnvironmentMissing: the plans that are there are of another device or version, and none can be built here.
        GateFailed: the builder refuses the graph.
    """
    least, _, most = request.batch
    shipped = request.source.with_name(plan_name(request.source, request.batch))
    # What stands before the first full stop from the right names the sidecar.
    cached = folder / f"{request.source.stem}.{request.package}-batch{least}-{most}.engine.plan"
    reasons: list[str] = []
    for plan in (shipped, cached):
        found = stale_reasons(plan, request.identity)
        if not found:
            return plan
        reasons += [reason for reason in found if plan.exists()]
    logger.info("building a plan of %s: %s", request.source.name, "; ".join(reasons) or "there is none")
    if writable(folder):
        return _build(request, cached, reasons)
    # A run folder that is served from a read-only disk.
    logger.warning("%s cannot be written: the plan of %s is built at every start", folder, request.source.name)
    return _build(request, workshop() / cached.name, reasons)


def workshop() -> Path:
    """A folder that lasts as long as this process, for plans that nobody keeps; they share TensorRT's timings."""
    return Path(_temporary_folder().name)


def _build(request: PlanRequest, plan: Path, reasons: list[str]) -> Path:
    try:
        with atomic_path(plan) as path:
            make_plan(request.package, request.source, path, request.batch, effort=request.effort)
    except EnvironmentMissing as error:
        was = f"its plan is not of this machine ({'; '.join(reasons)})" if reasons else "it has no plan yet"
        raise EnvironmentMissing(
            f"{request.source.name}: {was}, and none can be built here: {error.cause}",
            f"build it where {request.package} and its GPU are",
        ) from error
    write_identity(plan, request.identity)
    return plan


def _cuda_version() -> str:
    try:
        return runtime_version()
    except EnvironmentMissing:  # without cuda-python a plan can be built, and no engine runs
        return "unknown"


@cache
def _temporary_folder() -> "tempfile.TemporaryDirectory[str]":
    return tempfile.TemporaryDirectory(prefix="ptq-export-")
