"""From an ONNX file to a plan that may be loaded here: the one that lies there if its sidecar says so, else a new one.

The sidecar is compared before anything is deserialised: TensorRT answers a plan of another version or GPU with None, or
crashes. A plan of TensorRT is bound to its GPU; one of TensorRT for RTX is not, it is finished when it is loaded.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ptq_export.engines.build_cache import Identity, build_or_reuse, current, stale_reasons
from ptq_export.engines.cuda.driver import Gpu
from ptq_export.engines.cuda.runtime import runtime_version
from ptq_export.engines.trt.plan import RTX, BuilderSettings, make_plan
from ptq_export.errors import EnvironmentMissing
from ptq_export.interface import SAMPLE

__all__ = ["PlanRequest", "fitted", "plan_name", "ready_plan"]

logger = logging.getLogger(__name__)
Rows = TypeVar("Rows", bound=Any)


@dataclass(frozen=True)
class PlanRequest:
    """A plan of `source` (ONNX of that digest) by a `package` of that version; `gpu` is the one that will run it."""

    package: str
    version: str
    source: Path
    onnx_sha256: str
    batch: tuple[int, int, int]
    settings: BuilderSettings
    gpu: Gpu | None
    trusted: bool = False

    @property
    def identity(self) -> Identity:
        """What the plan depends on."""
        options = {"batch": list(self.batch)} | self.settings.identity()
        versions = {self.package: self.version}
        if self.package == RTX:
            return current("trt-rtx", versions, self.onnx_sha256, options, isa=())
        device = self.gpu.label if self.gpu is not None else "no GPU"
        versions["cuda"] = _cuda_version()
        return current("trt", versions, self.onnx_sha256, options, isa=(), device=device)


def fitted(feeds: Mapping[str, Rows], batch: tuple[int, int, int]) -> tuple[dict[str, Rows], list[slice]]:
    """Arrays or tensors `[N, ...]` as a plan of these batches takes them, and the parts in which to compute them.

    Row 0 is repeated where there are fewer rows than the least batch: drop them from the answer. The parts are of one
    size, so the last may overlap: another size would need another CUDA graph.
    """
    least, _, most = batch
    given = len(feeds[SAMPLE])
    if given < least:
        rows = [*range(given), *[0] * (least - given)]
        return {name: values[rows] for name, values in feeds.items()}, [slice(0, least)]
    size = min(given, most)
    starts = (min(start, given - size) for start in range(0, given, size))
    return dict(feeds), [slice(start, start + size) for start in starts]


def plan_name(source: Path, batch: tuple[int, int, int], settings: BuilderSettings) -> str:
    """The plan beside `source` in a run folder."""
    return f"{source.stem}.{_kind(batch, settings)}.plan"


def _kind(batch: tuple[int, int, int], settings: BuilderSettings) -> str:
    """What tells the plans of one graph apart, e.g. `batch1-64-sm75`."""
    names = "".join(f"-sm{name.replace('.', '')}" for name in settings.compute_capabilities)
    return f"batch{batch[0]}-{batch[2]}{names}"


def ready_plan(request: PlanRequest, folder: Path) -> Path:
    """A plan with the identity of `request`: beside its source, in `folder`, or built into that folder.

    Raises:
        EnvironmentMissing: the plans that are there are of another device or version, and none can be built here.
        GateFailed: the builder refuses the graph.
    """
    shipped = request.source.with_name(plan_name(request.source, request.batch, request.settings))
    # What stands before the first full stop from the right names the sidecar.
    kind = _kind(request.batch, request.settings)
    cached = folder / f"{request.source.stem}.{request.package}-{kind}.engine.plan"
    reasons = stale_reasons(shipped, request.identity, request.trusted)
    if not reasons:
        return shipped
    if shipped.exists():
        logger.info("%s is not used: %s", shipped.name, "; ".join(reasons))
    name = request.source.name

    def build(path: Path) -> None:
        try:
            make_plan(request.package, request.source, path, request.batch, settings=request.settings)
        except EnvironmentMissing as error:
            raise _not_here(request, (shipped, cached), error) from error

    doing, done = f"building a plan of {name}", f"the plan of {name} is built"
    return build_or_reuse(cached, request.identity, build, doing, done, trusted=request.trusted)


def _not_here(request: PlanRequest, plans: Sequence[Path], error: EnvironmentMissing) -> EnvironmentMissing:
    """`error` of the builder, with what is wrong with the `plans` that are there."""
    reasons = [
        reason for plan in plans if plan.exists() for reason in stale_reasons(plan, request.identity, request.trusted)
    ]
    was = f"its plan is not of this machine ({'; '.join(reasons)})" if reasons else "it has no plan yet"
    return EnvironmentMissing(
        f"{request.source.name}: {was}, and none can be built here: {error.cause}",
        f"build it where {request.package} and its GPU are",
    )


def _cuda_version() -> str:
    try:
        return runtime_version()
    except EnvironmentMissing:  # without cuda-python a plan can be built, and no engine runs
        return "unknown"
