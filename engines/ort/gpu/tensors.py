"""What ONNX Runtime's GPU providers do with tensors that are on the device already, and how a step is timed there."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ptq_export.engines.base import DeviceTiming, EngineOptions, GpuEngine
from ptq_export.engines.cuda.runtime import free_bytes
from ptq_export.engines.ort.gpu.bound import BoundModel, Region
from ptq_export.errors import InputError
from ptq_export.interface import INPUTS, OUTPUT

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OrtGpuEngine"]

ALIGNMENT = 256  # of an address that TensorRT reads


class OrtGpuEngine(GpuEngine):
    """A denoiser whose session for tensors on the device is opened when the first one comes.

    More samples than its largest batch are computed in parts; fewer than its least are made as many.
    """

    options: EngineOptions

    def run_tensors(self, sample: "Tensor", timestep: "Tensor", *label: "Tensor") -> "Tensor":
        import torch

        if sample.device.index != 0:
            raise InputError(f"the sample is on {sample.device}, this engine on cuda:0", "move it there")
        arguments, parts = self._parts((sample, timestep, *label))
        stream = torch.cuda.current_stream(sample.device).cuda_stream
        eps = torch.empty(self._output_shape(len(arguments[0])), dtype=torch.float32, device=sample.device)
        for part in parts:
            eps[part] = self._step_of_tensors(stream, *(value[part] for value in arguments))
        return eps[: len(sample)]

    def timed_step(
        self, graph: bool, sample: NDArray[np.float32], timestep: NDArray[np.int64], *label: NDArray[np.int64]
    ) -> Callable[[], DeviceTiming]:
        feeds: dict[str, NDArray[Any]] = dict(zip(INPUTS, (sample, timestep, *label), strict=False))
        return self._bound.timed_step(feeds, OUTPUT, self._output_shape(len(sample)), graph)

    def step_loop(
        self, graph: bool, sample: NDArray[np.float32], timestep: NDArray[np.int64], *label: NDArray[np.int64]
    ) -> Callable[[int], None]:
        feeds: dict[str, NDArray[Any]] = dict(zip(INPUTS, (sample, timestep, *label), strict=False))
        return self._bound.step_loop(feeds, OUTPUT, self._output_shape(len(sample)), graph)

    def _step_of_tensors(self, stream: int, *arguments: "Tensor") -> "Tensor":
        """One step of a batch that the engine takes, on `stream`."""
        import torch

        aligned = [value if value.data_ptr() % ALIGNMENT == 0 else value.clone() for value in arguments]
        eps = torch.empty(self._output_shape(len(aligned[0])), dtype=torch.float32, device=aligned[0].device)
        tensors = dict(zip((*INPUTS[: len(aligned)], OUTPUT), (*aligned, eps), strict=True))
        regions = {name: Region(tensor.data_ptr(), tuple(tensor.shape)) for name, tensor in tensors.items()}
        self._bound.enqueue(regions, stream, self.options.cuda_graphs)
        return eps

    def _output_shape(self, batch: int) -> tuple[int, ...]:
        return (batch, self.signature.channels, *self.sample_shape[1:])

    @property
    def gpu_bytes(self) -> int:
        return self._opened[1]

    @property
    def _bound(self) -> BoundModel:
        return self._opened[0]

    @cached_property
    def _opened(self) -> tuple[BoundModel, int]:
        """The session for tensors on the device, and what it took of the memory there once it has run."""
        before = free_bytes()
        bound = BoundModel(self._open_on)
        batch = self._least_batch()
        feeds: dict[str, NDArray[Any]] = {"sample": np.zeros((batch, *self.sample_shape), np.float32)}
        names = INPUTS[1:2] if self.signature.classes is None else INPUTS[1:]
        feeds |= {name: np.zeros(batch, np.int64) for name in names}
        bound.timed_step(feeds, OUTPUT, self._output_shape(batch), False)
        return bound, max(0, before - free_bytes())

    @abstractmethod
    def _open_on(self, stream: int, graph: bool) -> onnxruntime.InferenceSession:
        """The session on a stream, with or without its CUDA graph."""

    @abstractmethod
    def _least_batch(self) -> int:
        """The smallest batch that the engine takes."""

    @abstractmethod
    def _parts(self, arguments: "tuple[Tensor, ...]") -> "tuple[Sequence[Tensor], Sequence[slice]]":
        """Arguments of a batch that the engine serves in these parts."""
