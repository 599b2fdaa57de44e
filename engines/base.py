"""What every engine is: `(sample, timestep, **conditions) -> eps` on numpy arrays or torch tensors, the same kind out.

torch is never imported here: a server that feeds numpy arrays starts without it.
"""

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from ptq_export.engines.bound import BoundStep, require_in_place
from ptq_export.engines.feeds import check_names, check_shape, check_values, checked, is_tensor, type_name, zeros
from ptq_export.engines.lifetime import Resident
from ptq_export.engines.output import device_output, host_output
from ptq_export.errors import InputError
from ptq_export.interface import SAMPLE, TIMESTEP, Input, Prompt
from ptq_export.machine import physical_cores, require_threads

if TYPE_CHECKING:
    from torch import Tensor

    from ptq_export.engines.exported_layers import LayerRecord
    from ptq_export.engines.prompt import PromptSession
    from ptq_export.engines.unet import EngineUNet

__all__ = ["DeviceTiming", "Engine", "EngineOptions", "Feeds", "GpuEngine", "GpuOptions", "Signature"]

Values: TypeAlias = "float | NDArray[Any] | Tensor"
"""`[N, ...]`; where one number per sample is wanted, also one for the whole batch."""

Out = TypeVar("Out", "NDArray[np.float32]", "Tensor")

Feeds: TypeAlias = Mapping[str, NDArray[Any]]
"""Every input by name, checked: contiguous, of its type, `[N, ...]`."""


@dataclass(frozen=True)
class Signature:
    """What an engine takes and makes.

    Attributes:
        inputs: The sample, the time-step, and then the conditions.
        channels: Output channels: C, or 2 C where a learned variance follows eps.
        batch: The only batch size of a graph that was compiled for one, None where any will do.
        num_train_timesteps: T where the graph states it; time-steps are 0..T-1, continuous ones 0..T.
        prompt: What its graph takes in place of conditions, computed once per prompt; None where it takes `inputs`.
    """

    inputs: tuple[Input, ...]
    channels: int
    batch: int | None = None
    num_train_timesteps: int | None = None
    prompt: Prompt | None = None

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """`(C, H, W)`, or `(C, L)` of sequences."""
        return tuple(size for size in self.inputs[0].shape if isinstance(size, int))

    @property
    def conditions(self) -> tuple[Input, ...]:
        """What it takes besides the sample and the time-step."""
        return self.inputs[2:]

    @property
    def step_inputs(self) -> tuple[Input, ...]:
        """What its graph takes at every step."""
        return self.inputs if self.prompt is None else self.prompt.step_inputs(self.inputs)

    def output_shape(self, batch: int) -> tuple[int, ...]:
        """The shape of eps for so many samples."""
        return (batch, self.channels, *self.sample_shape[1:])

    def nothing(self, batch: int) -> dict[str, NDArray[Any]]:
        """Zeros for every input of a step's graph, to have everything allocated."""
        return zeros(self.step_inputs, batch)


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How an engine is built and runs; a runtime with more to say has a class of its own (`OrtOptions`, `TrtOptions`).

    Attributes:
        batch: The only batch size, for which the engine is then specialised; None serves any.
        threads: Threads of an engine on the CPU; all physical cores by default.
        trusted: Load the engine files that lie in the cache folder even where this account did not build them on this
            machine: for a folder that you made yourself. A TensorRT plan is machine code.
    """

    batch: int | None = None
    threads: int = field(default_factory=physical_cores)
    trusted: bool = False

    def __post_init__(self) -> None:
        require_threads(self.threads)

    @property
    def usual_batch(self) -> int | None:
        """The batch for which the engine is best; None where it has no favourite."""
        return self.batch

    @classmethod
    def of(cls, options: "EngineOptions | None") -> Self:
        """`options` with what this class adds at its defaults.

        Raises:
            InputError: they are another runtime's own.
        """
        if options is None or type(options) is cls:
            return options or cls()
        given = {each.name: getattr(options, each.name) for each in fields(options)}
        if surplus := sorted({*given} - {each.name for each in fields(cls)}):
            cause = f"{type(options).__name__} are not for this engine, which knows no {', '.join(surplus)}"
            raise InputError(cause, f"give {cls.__name__}")
        return cls(**given)


@dataclass(frozen=True, kw_only=True)
class GpuOptions(EngineOptions):
    """How an engine on a GPU is built and runs.

    Attributes:
        cuda_graphs: Record a step once per batch size and launch it as one: less work for the host, and tensors are
            copied on the device to where the recording reads them.
    """

    cuda_graphs: bool = False


@dataclass(frozen=True)
class DeviceTiming:
    """One step on a GPU, its inputs there already: time between two events around it, the host's time to ask for it,
    and whether it was launched as one recorded CUDA graph. Without events (`by_events`) both are the wall clock's, from
    the call until the step is done."""

    compute_ms: float
    enqueue_ms: float
    recorded: bool
    by_events: bool = True


class Engine(Resident, ABC):
    """A built denoiser with its `signature`.

    It may be called from several threads at once, each with feeds of its own: every answer is the one that the call
    gets alone, bit for bit. On a CPU the calls run side by side, on a GPU they take turns. It belongs to the process
    that loaded it (`Resident`), until it is closed, by `close()` or at the end of a `with` block.

    The kinds that the registry (`ptq_export.engines.registry`) builds are called with
    `(source, cache, options, sha256)`: the ONNX file, the folder for what can be kept of the build, `EngineOptions`,
    and the digest that the file must have.

    What a graph takes in place of conditions is computed by `prompt`, once for as long as they stay the same.
    """

    takes_values: ClassVar[bool] = True
    """Whether its graph may take values of a prompt graph."""

    def __init__(self, signature: Signature, prompt: "PromptSession | None" = None) -> None:
        if signature.prompt is not None and not self.takes_values:
            told = "the graph takes values of a prompt graph, and engines on a GPU are built from the whole network"
            raise InputError(told, "make a run for a target on a GPU")
        super().__init__()
        self.signature, self.prompt = signature, prompt
        self._turn = threading.Lock()

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """`(C, H, W)`, or `(C, L)` of sequences."""
        return self.signature.sample_shape

    @overload
    def __call__(
        self, sample: NDArray[Any], timestep: Values, *, out: None = None, **conditions: "Values | None"
    ) -> NDArray[np.float32]: ...

    @overload
    def __call__(
        self, sample: "Tensor", timestep: Values, *, out: None = None, **conditions: "Values | None"
    ) -> "Tensor": ...

    @overload
    def __call__(self, sample: Any, timestep: Values, *, out: Out, **conditions: "Values | None") -> Out: ...

    def __call__(self, sample: Any, timestep: Values, *, out: Any = None, **conditions: "Values | None") -> Any:
        """eps `[N, C, H, W]` of a float32 sample `[N, C, H, W]` at time-steps `[N]`, or one for the whole batch.

        Conditions are given by name: `label=3`, `encoder_hidden_states=...`. Where the signature has 2 C channels, the
        answer has them. It is written to `out`, and that returned, where the caller gives a contiguous float32 array or
        tensor of its shape.

        Raises:
            InputError: a condition is missing or not known, the shape or type of an input or of `out` is not what the
                engine was built for, or an input holds NaN or infinite values, which int8 cannot; or the engine is
                closed, or another process's.
        """
        self.require_alive()
        check_names(self.signature.inputs, conditions)
        feeds = self._checked({SAMPLE: sample, TIMESTEP: timestep, **conditions})
        if out is not None:
            self.run(feeds, host_output(out, self.signature.output_shape(len(feeds[SAMPLE])), feeds))
            return out
        eps = self.run(feeds)
        if not is_tensor(sample):
            return eps
        import torch

        return torch.from_numpy(eps).to(sample.device)

    @abstractmethod
    def run(self, feeds: Feeds, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """eps `[N, C, H, W]` of inputs that were checked: in `out`, contiguous and apart from them, if given."""

    def bound_run(self, feeds: Feeds, out: NDArray[np.float32]) -> Callable[[], object]:
        """What computes the step of these inputs into `out`, as it is then; both stay where they are."""
        return lambda: self.run(feeds, out)

    def bind(self, sample: Any, timestep: Any, out: Out, **conditions: Any) -> BoundStep[Out]:
        """A step on memory of the caller, who writes the next inputs into these arrays, or tensors of the host, and
        calls it: nothing is copied, and shapes and types are checked here, once.

        Every input is an array of its own type and whole batch: `timestep` int64 `[N]`.

        Raises:
            InputError: as a call does, or an input would have to be copied.
        """
        self.require_alive()
        check_names(self.signature.inputs, conditions)
        given = {SAMPLE: sample, TIMESTEP: timestep, **conditions}
        feeds = self._checked({each.name: given[each.name] for each in self.signature.inputs})
        require_in_place(given, feeds)
        answer = host_output(out, self.signature.output_shape(len(feeds[SAMPLE])), feeds)
        return BoundStep(self, self.signature, feeds, out, self.bound_run(feeds, answer))

    @abstractmethod
    def executed_layers(self, expected: Mapping[str, str]) -> "list[LayerRecord]":
        """Every conv and linear of the exported graph with the precision in which this engine computes it, read back
        from the engine itself; `expected` is `int8` or `float` per module path (float where it has no entry)."""

    @abstractmethod
    def layer_times_ms(self, feeds: Feeds) -> dict[str, float]:
        """Median milliseconds per call with these inputs in each conv and linear, by module path; without the data
        movement between them."""

    @staticmethod
    @abstractmethod
    def run_graph(model: bytes, inputs: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
        """The one output of a serialised ONNX graph, executed as this kind executes a whole denoiser: for layers and
        blocks alone."""

    def step_feeds(self, feeds: Feeds) -> Feeds:
        """What the graph of a step takes: `feeds`, or values of the prompt graph in place of conditions."""
        return feeds if self.prompt is None else self.prompt.step_feeds(feeds)

    def as_unet(self) -> "EngineUNet":
        """This engine as the `unet` of a diffusers `DDIMPipeline` or `DDPMPipeline`."""
        from ptq_export.engines.unet import EngineUNet

        return EngineUNet(self)

    def _checked(self, feeds: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
        signature = self.signature
        return checked(signature.inputs, signature.num_train_timesteps, signature.batch, feeds)


class GpuEngine(Engine):
    """An engine on a GPU: CUDA tensors stay on the device, and it times its steps there.

    A step of CUDA tensors is put on torch's current stream (`with torch.cuda.stream(...)` gives another) and not
    waited for. Inputs that are on the device already are not checked for their values: that would wait for them.

    Its graph is the whole network: a prompt graph is computed on the CPU. Threads take turns: buffers on the device
    and the engine's stream are for one step at a time.
    """

    takes_values = False

    @property
    @abstractmethod
    def gpu_bytes(self) -> int:
        """Device memory that it holds: weights, activations, buffers."""

    def __call__(self, sample: Any, timestep: Values, *, out: Any = None, **conditions: "Values | None") -> Any:
        if not (is_tensor(sample) and sample.is_cuda):
            return super().__call__(sample, timestep, out=out, **conditions)
        self.require_alive()
        check_names(self.signature.inputs, conditions)
        if type_name(sample) != "float32":
            raise InputError(f"the sample is {type_name(sample)}, this engine takes float32", "convert it first")
        first, *rest = self.signature.inputs
        check_shape(first, tuple(sample.shape), self.signature.batch)
        given, steps = {TIMESTEP: timestep, **conditions}, self.signature.num_train_timesteps
        sizes: dict[str, int] = {}
        found = {each.name: _on_device(each, given[each.name], sample, steps, sizes) for each in rest}
        feeds = {SAMPLE: sample.detach().contiguous(), **found}
        if out is None:
            return self.run_tensors(feeds)
        self.run_tensors(feeds, device_output(out, self.signature.output_shape(len(sample)), feeds))
        return out

    @abstractmethod
    def run_tensors(self, feeds: "Mapping[str, Tensor]", out: "Tensor | None" = None) -> "Tensor":
        """eps `[N, C, H, W]` of checked inputs on the device, contiguous: in `out` where that is given."""

    @abstractmethod
    def timed_step(self, graph: bool, feeds: Feeds) -> Callable[[], DeviceTiming]:
        """A function that computes this step again and again, its inputs on the device, and times it: launched as one
        CUDA graph, or kernel by kernel. What it does besides the timed step is its own affair."""

    @abstractmethod
    def step_loop(self, graph: bool, feeds: Feeds) -> Callable[[int], None]:
        """A function that computes this step so many times and nothing else, one behind the other, its inputs on the
        device; it waits for the last one alone."""


def _on_device(wanted: Input, value: Any, sample: "Tensor", timesteps: int | None, sizes: dict[str, int]) -> "Tensor":
    """An input `[N, ...]` beside `sample`, its values checked where they are on the host."""
    import torch

    if not (is_tensor(value) and value.is_cuda):
        value = torch.from_numpy(check_values(wanted, timesteps, value)).to(sample.device, non_blocking=True)
    if wanted.dtype == "int64" and value.is_floating_point():
        raise InputError(f"{type_name(value)} {list(value.shape)} are no integers for {wanted}", "convert them first")
    tensor: Tensor = value.to(getattr(torch, wanted.dtype))
    if not wanted.shape and tensor.numel() == 1:
        tensor = tensor.reshape(1).expand(len(sample))
    if not wanted.fits(tensor.shape, sizes):
        raise InputError(f"{wanted.name} is {list(tensor.shape)}, this engine takes {wanted}")
    if len(tensor) != len(sample):
        raise InputError(f"{wanted.name} has {len(tensor)} rows, the sample {len(sample)}", "give one row per sample")
    return tensor.contiguous()
