"""`config.pbtxt`, Triton's description of a model, as text.

https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_configuration.html
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ptq_export.interface import Input

__all__ = ["Tensor", "dynamic_batching", "instance", "model_config", "parameters", "tensor_of", "warm_up"]

KINDS = {"float32": "FP32", "int64": "INT64"}


@dataclass(frozen=True)
class Tensor:
    """An input or output of a model, without the batch where there is one.

    Attributes:
        kind: As Triton calls it, e.g. `FP32`.
        sizes: -1 is one that stays open; () is one number, which a request gives as `[1]`.
        optional: A request may leave it out.
    """

    name: str
    kind: str
    sizes: tuple[int, ...]
    optional: bool = False

    @property
    def dims(self) -> tuple[int, ...]:
        """As a request gives it: Triton knows no tensor of no dimension."""
        return self.sizes or (1,)


def tensor_of(wanted: Input) -> Tensor:
    """An input of a denoiser, or a value of its prompt graph."""
    return Tensor(wanted.name, KINDS[wanted.dtype], tuple(-1 if isinstance(it, str) else it for it in wanted.shape))


def model_config(
    name: str, backend: str, max_batch: int, inputs: Sequence[Tensor], outputs: Sequence[Tensor], *blocks: str
) -> str:
    """The description of a model; `backend` and `blocks` are fields of it as text.

    With a batch (`max_batch` is not 0) one number per row is `[N]` for the model, and `[N, 1]` in a request.
    """
    head = [f'name: "{name}"', backend, f"max_batch_size: {max_batch}"]
    tensors = [_tensor("input", it, max_batch > 0) for it in inputs] + [_tensor("output", it, False) for it in outputs]
    return "\n".join([*head, *tensors, *(block for block in blocks if block), ""])


def dynamic_batching(max_batch: int, delay_us: int) -> str:
    """Steps of several requests become one batch: at once where `max_batch` rows wait, else when one has waited
    `delay_us`. Smaller preferred sizes would cut three waiting rows into two and one."""
    return (
        f"dynamic_batching {{\n  preferred_batch_size: [ {max_batch} ]\n  max_queue_delay_microseconds: {delay_us}\n}}"
    )


def instance(kind: str) -> str:
    """One instance of a model, `KIND_CPU` or `KIND_GPU`: it has all cores, and a batch is worth more than a second."""
    return f"instance_group [\n  {{\n    count: 1\n    kind: {kind}\n  }}\n]"


def warm_up(inputs: Sequence[Tensor], batches: Sequence[int]) -> str:
    """Zeros for every input, before the model is ready, in batches of these sizes; open sizes are 1."""
    samples = []
    for batch in batches:
        fed = "\n".join(_warm_input(each) for each in inputs)
        samples.append(f'  {{\n    name: "batch of {batch}"\n    batch_size: {batch}\n{fed}\n  }}')
    return "model_warmup [\n" + ",\n".join(samples) + "\n]"


def parameters(values: Mapping[str, str]) -> str:
    """What the program of a model is told."""
    pairs = (f'parameters {{\n  key: "{key}"\n  value {{ string_value: "{text}" }}\n}}' for key, text in values.items())
    return "\n".join(pairs)


def _tensor(field: str, tensor: Tensor, batched: bool) -> str:
    lines = [f'name: "{tensor.name}"', f"data_type: TYPE_{tensor.kind}", f"dims: [ {_joined(tensor.dims)} ]"]
    lines += ["reshape { shape: [ ] }"] if batched and not tensor.sizes else []
    lines += ["optional: true"] if tensor.optional else []
    return f"{field} [\n  {{\n" + "\n".join(f"    {line}" for line in lines) + "\n  }\n]"


def _warm_input(tensor: Tensor) -> str:
    dims = _joined(1 if size == -1 else size for size in tensor.dims)
    fields = f"data_type: TYPE_{tensor.kind} dims: [ {dims} ] zero_data: true"
    return f'    inputs {{\n      key: "{tensor.name}"\n      value {{ {fields} }}\n    }}'


def _joined(sizes: Iterable[int]) -> str:
    return ", ".join(map(str, sizes))
