"""What every engine is: `(sample, timestep[, label]) -> eps` on numpy arrays or torch tensors, the same kind out.

torch is never imported here: a server that feeds numpy arrays starts without it.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from ptq_export.errors import InputError
from ptq_export.machine import physical_cores, require_threads

if TYPE_CHECKING:
    from torch import Tensor

    from ptq_export.engines.exported_layers import LayerRecord
    from ptq_export.engines.unet import EngineUNet

__all__ = ["DeviceTiming", "Engine", "EngineOptions", "GpuEngine", "Signature"]

Integers: TypeAlias = "int | NDArray[Any] | Tensor"
"""One for the whole batch, or `[N]`."""


@dataclass(frozen=True)
class Signature:
    """What an engine takes and makes.

    Attributes:
        sample_shape: `(C, H, W)`.
        channels: Output channels: C, or 2 C where a learned variance follows eps.
        batch: The only batch size of a graph that was compiled for one, None where any will do.
        num_train_timesteps: T where the graph states it; time-steps are 0..T-1.
        classes: How many labels a class-conditional denoiser knows, 0..classes-1; None where it takes none.
    """

    sample_shape: tuple[int, int, int]
    channels: int
    batch: int | None = None
    num_train_timesteps: int | None = None
    classes: int | None = None


@dataclass(frozen=True)
class EngineOptions:
    """How an engine is built and runs.

    Attributes:
        batch: The only batch size, for which the engine is then specialised; None serves any.
        threads: Threads of an engine on the CPU; all physical cores by default.
        arena: ONNX Runtime: keep freed buffers for the next call, which is faster, and memory stays at its peak.
        operators: ONNX Runtime on the CPU: use this package's own operators, where they were compiled.
        batches: TensorRT: least, usual and largest batch of an engine that serves any; 1, 4 and 64 by default.
        builder_level: TensorRT: 0 builds fastest, 5 searches longest; its own default is 3.
        workspace_mib: TensorRT: limit of the builder's scratch memory.
        compute_capabilities: TensorRT for RTX: the GPUs that an engine serves, e.g. `7.5`; all from 8.0 by default.
        cuda_graphs: On a GPU: record a step once per batch size and launch it as one: less work for the host, and
            tensors are copied on the device to where the recording reads them.
        trusted: Load the engine files that lie in the cache folder even where this account did not build them on this
            machine: for a folder that you made yourself. A TensorRT plan is machine code.
    """

    batch: int | None = None
    threads: int = field(default_factory=physical_cores)
    arena: bool = True
    operators: bool = True
    batches: tuple[int, int, int] | None = None
    builder_level: int | None = None
    workspace_mib: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    cuda_graphs: bool = False
    trusted: bool = False

    def __post_init__(self) -> None:
        require_threads(self.threads)


@dataclass(frozen=True)
class DeviceTiming:
    """One step on a GPU, its inputs there already: time between two events around it, the host's time to ask for it,
    and whether it was launched as one recorded CUDA graph. Without events (`by_events`) both are the wall clock's, from
    the call until the step is done."""

    compute_ms: float
    enqueue_ms: float
    recorded: bool
    by_events: bool = True


class Engine(ABC):
    """A built denoiser with its `signature`.

    The kinds that the registry (`ptq_export.engines.registry`) builds are called with
    `(source, cache, options, sha256)`: the ONNX file, the folder for what can be kept of the build, `EngineOptions`,
    and the digest that the file must have.
    """

    def __init__(self, signature: Signature) -> None:
        self.signature = signature

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """`(C, H, W)`."""
        return self.signature.sample_shape

    @overload
    def __call__(
        self, sample: NDArray[Any], timestep: Integers, label: "Integers | None" = None
    ) -> NDArray[np.float32]: ...

    @overload
    def __call__(self, sample: "Tensor", timestep: Integers, label: "Integers | None" = None) -> "Tensor": ...

    def __call__(self, sample: Any, timestep: Integers, label: "Integers | None" = None) -> Any:
        """eps `[N, C, H, W]` of a float32 sample `[N, C, H, W]` at time-steps `[N]`, or one for the whole batch.

        A class-conditional engine takes labels likewise. Where the signature has 2 C channels, the answer has them.

        Raises:
            InputError: the shape or type of an argument is not what the engine was built for, or the sample holds NaN
                or infinite values, which int8 cannot.
        """
        array = self._checked_sample(sample)
        steps = self._checked_timestep(timestep, len(array))
        eps = self.run(array, steps, *self._checked_label(label, len(array)))
        if not _is_tensor(sample):
            return eps
        import torch

        return torch.from_numpy(eps).to(sample.device)

    @abstractmethod
    def run(
        self, sample: NDArray[np.float32], timestep: NDArray[np.int64], *label: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """eps `[N, C, H, W]` of arguments that were checked: contiguous, `[N, C, H, W]` and `[N]`."""

    @abstractmethod
    def executed_layers(self, expected: Mapping[str, str]) -> "list[LayerRecord]":
        """Every conv and linear of the exported graph with the precision in which this engine computes it, read back
        from the engine itself; `expected` is `int8` or `float` per module path (float where it has no entry)."""

    @abstractmethod
    def layer_times_ms(self, inputs: Sequence[NDArray[Any]]) -> dict[str, float]:
        """Median milliseconds per call with these arguments in each conv and linear, by module path; without the data
        movement between them."""

    @staticmethod
    @abstractmethod
    def run_graph(model: bytes, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The one output of a serialised ONNX graph, executed as this kind executes a whole denoiser: for layers and
        blocks alone."""

    def as_unet(self) -> "EngineUNet":
        """This engine as the `unet` of a diffusers `DDIMPipeline` or `DDPMPipeline`."""
        from ptq_export.engines.unet import EngineUNet

        return EngineUNet(self)

    def _checked_sample(self, sample: Any) -> NDArray[np.float32]:
        if _type_name(sample) != "float32":
            raise InputError(f"the sample is {_type_name(sample)}, this engine takes float32", "convert it first")
        array = _as_array("sample", sample)
        self._check_shape(array.shape)
        array = np.ascontiguousarray(array)
        _check_finite(array)
        return array

    def _check_shape(self, found: tuple[int, ...]) -> None:
        batch, shape = self.signature.batch, self.signature.sample_shape
        wanted = ("N" if batch is None else batch, *shape)
        if len(found) != 4 or found[1:] != shape or found[0] == 0:
            raise InputError(f"the sample is {list(found)}, this engine takes [{', '.join(map(str, wanted))}]")
        if batch not in (None, found[0]):
            raise InputError(
                f"the sample has batch {found[0]}, this engine was compiled for batch {batch}",
                "send that many samples, or export with a dynamic batch",
            )

    def _checked_timestep(self, timestep: Any, batch: int) -> NDArray[np.int64]:
        if _type_name(timestep) in ("float16", "bfloat16"):
            raise InputError(f"the time-step is {_type_name(timestep)}, which rounds 2049 to 2048", "give an integer")
        return _checked_integers("time-step", timestep, batch, self.signature.num_train_timesteps)

    def _checked_label(self, label: Any, batch: int) -> tuple[NDArray[np.int64], ...]:
        classes = self.signature.classes
        if classes is None and label is None:
            return ()
        if classes is None:
            raise InputError("this engine has no class labels", "leave out the label")
        if label is None:
            raise InputError("this engine is class-conditional", f"give labels, 0..{classes - 1}")
        return (_checked_integers("label", label, batch, classes),)


class GpuEngine(Engine):
    """An engine on a GPU: CUDA tensors stay on the device, and it times its steps there.

    A step of CUDA tensors is put on torch's current stream (`with torch.cuda.stream(...)` gives another) and not
    waited for. Time-steps and labels that are on the device already are not checked, nor is a sample for NaN: that
    would wait for them.
    """

    @property
    @abstractmethod
    def gpu_bytes(self) -> int:
        """Device memory that it holds: weights, activations, buffers."""

    def __call__(self, sample: Any, timestep: Integers, label: "Integers | None" = None) -> Any:
        if not (_is_tensor(sample) and sample.is_cuda):
            return super().__call__(sample, timestep, label)
        if _type_name(sample) != "float32":
            raise InputError(f"the sample is {_type_name(sample)}, this engine takes float32", "convert it first")
        self._check_shape(tuple(sample.shape))
        if (label is None) != (self.signature.classes is None):
            self._checked_label(label, len(sample))
        given = [timestep] if label is None else [timestep, label]
        checks = (self._checked_timestep, lambda value, batch: self._checked_label(value, batch)[0])
        conditions = [_on_device(value, sample, check) for value, check in zip(given, checks, strict=False)]
        return self.run_tensors(sample.detach().contiguous(), *conditions)

    @abstractmethod
    def run_tensors(self, sample: "Tensor", timestep: "Tensor", *label: "Tensor") -> "Tensor":
        """eps `[N, C, H, W]` of checked arguments on the device: contiguous, `[N, C, H, W]` and int64 `[N]`."""

    @abstractmethod
    def timed_step(
        self, graph: bool, sample: NDArray[np.float32], timestep: NDArray[np.int64], *label: NDArray[np.int64]
    ) -> Callable[[], DeviceTiming]:
        """A function that computes this step again and again, its inputs on the device, and times it: launched as one
        CUDA graph, or kernel by kernel. What it does besides the timed step is its own affair."""

    @abstractmethod
    def step_loop(
        self, graph: bool, sample: NDArray[np.float32], timestep: NDArray[np.int64], *label: NDArray[np.int64]
    ) -> Callable[[int], None]:
        """A function that computes this step so many times and nothing else, one behind the other, its inputs on the
        device; it waits for the last one alone."""


def _check_finite(sample: NDArray[np.float32]) -> None:
    """Refuse NaN and infinities: they have no code, and a quantiser would make plain numbers of them.

    x . x is finite where x is, and costs 1.4 us for 3x32x32 and 14 us for 3x256x256: under 1 % of a step of 2 ms.
    """
    row = sample.reshape(-1)
    with np.errstate(all="ignore"):
        finite = np.isfinite(np.dot(row, row)) or np.isfinite(row).all()
    if not finite:
        raise InputError("the sample holds NaN or infinite values", "a step before this one, or its input, made them")


def _on_device(value: Any, sample: "Tensor", check: Callable[[Any, int], NDArray[np.int64]]) -> "Tensor":
    """Integers as int64 `[N]` beside `sample`, checked where they are on the host."""
    import torch

    if not (_is_tensor(value) and value.is_cuda):
        return torch.from_numpy(check(value, len(sample))).to(sample.device, non_blocking=True)
    if value.is_floating_point() or tuple(value.shape) not in ((), (1,), (len(sample),)):
        raise InputError(
            f"{_type_name(value)} {list(value.shape)} are no time-steps or labels of {len(sample)} samples"
        )
    tensor: Tensor = value.to(torch.int64).expand(len(sample)).contiguous()
    return tensor


def _checked_integers(name: str, given: Any, batch: int, end: int | None) -> NDArray[np.int64]:
    """`given`, one integer or `[N]`, as `[N]`; all of 0..end-1."""
    values = _as_array(name, given)
    if values.dtype.kind not in "iu" and not _holds_integers(values):
        raise InputError(f"{name} {given} is not an integer", f"this engine knows {name}s 0, 1, 2, ... only")
    if values.shape not in ((), (1,), (batch,)):
        raise InputError(f"the {name}s have shape {list(values.shape)}: give one, or [{batch}]")
    if values.min() < 0 or values.max() >= (2**63 if end is None else end):
        raise InputError(f"{name} {given} is out of range", f"known: {'0 and up' if end is None else f'0..{end - 1}'}")
    return np.full(batch, values, np.int64)


def _holds_integers(values: NDArray[Any]) -> bool:
    return values.dtype.kind == "f" and bool(np.all(np.isfinite(values) & (values == np.floor(values))))


def _is_tensor(value: object) -> bool:
    # Whoever holds a tensor has imported torch already.
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def _as_array(name: str, value: Any) -> NDArray[Any]:
    """A tensor of any device and layout that has values, an array, or lists of numbers."""
    try:
        return np.asarray(value.detach().to_dense().cpu().resolve_neg() if _is_tensor(value) else value)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of unequal lengths; no values, no numpy type
        raise InputError(f"the {name} is no array of numbers: {error}", "give a dense array or tensor") from error


def _type_name(value: object) -> str:
    return str(getattr(value, "dtype", type(value).__name__)).removeprefix("torch.")
