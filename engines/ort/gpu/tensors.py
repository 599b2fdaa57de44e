"""What ONNX Runtime's GPU providers do with tensors that are on the device already, and how a step is timed there."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import onnxruntime

from ptq_export.engines.base import DeviceTiming, Feeds, GpuEngine, GpuOptions
from ptq_export.engines.cuda.runtime import free_bytes
from ptq_export.engines.ort.gpu.bound import BoundModel, Region
from ptq_export.engines.output import written
from ptq_export.errors import InputError
from ptq_export.interface import OUTPUT, SAMPLE

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["OrtGpuEngine"]

ALIGNMENT = 256  # of an address that TensorRT reads


class OrtGpuEngine(GpuEngine):
    """A denoiser whose session for tensors on the device is opened when the first one comes.

    More samples than its largest batch are computed in parts; fewer than its least are made as many.
    """

    options: GpuOptions

    def run_tensors(self, feeds: "Mapping[str, Tensor]", out: "Tensor | None" = None) -> "Tensor":
        import torch

        device = feeds[SAMPLE].device
        if device.index != 0:
            raise InputError(f"the sample is on {device}, this engine on cuda:0", "move it there")
        rows, parts = self._parts(feeds)
        stream = torch.cuda.current_stream(device).cuda_stream
        eps = torch.empty(self.signature.output_shape(len(rows[SAMPLE])), dtype=torch.float32, device=device)
        with self._turn:
            for part in parts:
                eps[part] = self._step_of_tensors(stream, {name: value[part] for name, value in rows.items()})
        return written(eps[: len(feeds[SAMPLE])], out)

    def timed_step(self, graph: bool, feeds: Feeds) -> Callable[[], DeviceTiming]:
        return self._bound.timed_step(feeds, OUTPUT, self.signature.output_shape(len(feeds[SAMPLE])), graph)

    def step_loop(self, graph: bool, feeds: Feeds) -> Callable[[int], None]:
        return self._bound.step_loop(feeds, OUTPUT, self.signature.output_shape(len(feeds[SAMPLE])), graph)

    def _step_of_tensors(self, stream: int, feeds: "Mapping[str, Tensor]") -> "Tensor":
        """One step of a batch that the engine takes, on `stream`."""
        import torch

        aligned = {it: value if value.data_ptr() % ALIGNMENT == 0 else value.clone() for it, value in feeds.items()}
        sample = aligned[SAMPLE]
        eps = torch.empty(self.signature.output_shape(len(sample)), dtype=torch.float32, device=sample.device)
        tensors = {**aligned, OUTPUT: eps}
        regions = {name: Region(tensor.data_ptr(), tuple(tensor.shape)) for name, tensor in tensors.items()}
        self._bound.enqueue(regions, stream, self.options.cuda_graphs)
        return eps

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
        bound.timed_step(self.signature.nothing(batch), OUTPUT, self.signature.output_shape(batch), False)
        return bound, max(0, before - free_bytes())

    @abstractmethod
    def _open_on(self, stream: int, graph: bool) -> onnxruntime.InferenceSession:
        """The session on a stream, with or without its CUDA graph."""

    @abstractmethod
    def _least_batch(self) -> int:
        """The smallest batch that the engine takes."""

    @abstractmethod
    def _parts(self, feeds: "Mapping[str, Tensor]") -> "tuple[Mapping[str, Tensor], Sequence[slice]]":
        """Inputs of a batch that the engine serves in these parts."""
