"""What can be told to TensorRT's builder, by whichever runtime it is called."""

from dataclasses import dataclass

from ptq_export.engines.base import GpuOptions
from ptq_export.engines.trt import build_plan
from ptq_export.engines.trt.plan import BuilderSettings

__all__ = ["TrtOptions"]


@dataclass(frozen=True, kw_only=True)
class TrtOptions(GpuOptions):
    """How an engine of TensorRT is built and runs.

    Attributes:
        batches: Least, usual and largest batch of an engine that serves any; 1, 4 and 64 by default.
        builder_level: 0 builds fastest, 5 searches longest; its own default is 3.
        workspace_mib: Limit of the builder's scratch memory.
        compute_capabilities: TensorRT for RTX: the GPUs that an engine serves, e.g. `7.5`; all from 8.0 by default.
    """

    batches: tuple[int, int, int] | None = None
    builder_level: int | None = None
    workspace_mib: int | None = None
    compute_capabilities: tuple[str, ...] = ()

    @property
    def batch_range(self) -> tuple[int, int, int]:
        """Least, usual and largest batch that the engine is built for."""
        return self.batches or build_plan.BATCH if self.batch is None else (self.batch, self.batch, self.batch)

    @property
    def usual_batch(self) -> int:
        return self.batch_range[1]

    @property
    def builder(self) -> BuilderSettings:
        """What the builder of a plan is told."""
        return BuilderSettings(self.builder_level, self.workspace_mib, self.compute_capabilities)
