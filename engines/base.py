"""What every engine is: a function `(sample, timestep) -> eps` on numpy arrays or torch tensors, the same kind out.

torch is never imported here: a server that feeds numpy arrays starts without it.
"""

import sys
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from ptq_export.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from ptq_export.engines.unet import EngineUNet

__all__ = ["Engine"]

Timestep: TypeAlias = "int | NDArray[Any] | Tensor"


class Engine(ABC):
    """A built denoiser.

    Attributes:
        sample_shape: `(C, H, W)`.
        batch: The only batch size of a graph that was compiled for one, None where any will do.
        num_train_timesteps: T where the graph states it; time-steps are 0..T-1.
    """

    def __init__(self, sample_shape: tuple[int, int, int], batch: int | None, num_train_timesteps: int | None) -> None:
        self.sample_shape = sample_shape
        self.batch = batch
        self.num_train_timesteps = num_train_timesteps

    @overload
    def __call__(self, sample: NDArray[Any], timestep: Timestep) -> NDArray[np.float32]: ...

    @overload
    def __call__(self, sample: "Tensor", timestep: Timestep) -> "Tensor": ...

    def __call__(self, sample: Any, timestep: Timestep) -> Any:
        """eps `[N, C, H, W]` of a float32 sample `[N, C, H, W]` at time-steps `[N]`, or one for the whole batch.

        Raises:
            InputError: the shape or type of an argument is not what the engine was built for.
        """
        array = self._checked_sample(sample)
        eps = self.run(array, self._checked_timestep(timestep, len(array)))
        if not _is_tensor(sample):
            return eps
        import torch

        return torch.from_numpy(eps).to(sample.device)

    @abstractmethod
    def run(self, sample: NDArray[np.float32], timestep: NDArray[np.int64]) -> NDArray[np.float32]:
        """eps `[N, C, H, W]` of arguments that were checked: contiguous, `[N, C, H, W]` and `[N]`."""

    def as_unet(self) -> "EngineUNet":
        """This engine as the `unet` of a diffusers `DDIMPipeline` or `DDPMPipeline`."""
        from ptq_export.engines.unet import EngineUNet

        return EngineUNet(self)

    def _checked_sample(self, sample: Any) -> NDArray[np.float32]:
        if _type_name(sample) != "float32":
            raise InputError(f"the sample is {_type_name(sample)}, this engine takes float32", "convert it first")
        array = _as_array(sample)
        wanted = ("N" if self.batch is None else self.batch, *self.sample_shape)
        if array.ndim != 4 or array.shape[1:] != self.sample_shape or len(array) == 0:
            raise InputError(f"the sample is {list(array.shape)}, this engine takes [{', '.join(map(str, wanted))}]")
        if self.batch not in (None, len(array)):
            raise InputError(
                f"the sample has batch {len(array)}, this engine was compiled for batch {self.batch}",
                "send that many samples, or export with a dynamic batch",
            )
        return np.ascontiguousarray(array)

    def _checked_timestep(self, timestep: Any, batch: int) -> NDArray[np.int64]:
        if _type_name(timestep) in ("float16", "bfloat16"):
            raise InputError(f"the time-step is {_type_name(timestep)}, which rounds 2049 to 2048", "give an integer")
        values = _as_array(timestep)
        if values.dtype.kind not in "iu" and not _holds_integers(values):
            raise InputError(f"time-step {timestep} is not an integer", "this engine knows the training steps only")
        if values.shape not in ((), (1,), (batch,)):
            raise InputError(f"the time-steps have shape {list(values.shape)}: give one, or [{batch}]")
        steps = self.num_train_timesteps
        if values.min() < 0 or (steps is not None and values.max() >= steps):
            known = "0 and up" if steps is None else f"0..{steps - 1}"
            raise InputError(f"time-step {timestep} is outside of the training steps {known}")
        return np.full(batch, values, np.int64)


def _holds_integers(values: NDArray[Any]) -> bool:
    return values.dtype.kind == "f" and bool(np.all(np.isfinite(values) & (values == np.floor(values))))


def _is_tensor(value: object) -> bool:
    # Whoever holds a tensor has imported torch already.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _as_array(value: Any) -> NDArray[Any]:
    return np.asarray(value.detach().cpu() if _is_tensor(value) else value)


def _type_name(value: object) -> str:
    return str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
