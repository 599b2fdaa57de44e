"""The exported denoiser as others see it: its inputs by name, and what its metadata states about them.

torch is never imported here: engines share these names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ptq_export.errors import InputError

__all__ = [
    "INPUTS",
    "LABEL",
    "OUTPUT",
    "PROMPT",
    "SAMPLE",
    "TIMESTEP",
    "TRAIN_TIMESTEPS",
    "DType",
    "Input",
    "Prompt",
    "inputs_from_json",
    "inputs_to_json",
    "label",
    "prompt_from_json",
    "prompt_to_json",
    "values_from_json",
]

SAMPLE = "sample"
TIMESTEP = "timestep"
LABEL = "label"
OUTPUT = "eps"

INPUTS = "inputs"
"""Metadata: every input, as JSON (`Input`)."""

PROMPT = "prompt"
"""Metadata of a graph that takes values of a prompt graph: its `Prompt`, as JSON."""

TRAIN_TIMESTEPS = "num_train_timesteps"
"""Metadata: T; whole time-steps are 0..T-1, continuous ones 0..T."""

DType = Literal["float32", "int64"]


@dataclass(frozen=True)
class Input:
    """One input of a denoiser.

    Attributes:
        name: What the network's `forward` calls it, and the graph.
        shape: Sizes behind the batch. A name in place of a number is a size that stays open: inputs that share the name
            have that size in common (`tokens` of a prompt and of its mask).
        limit: Of integers: they are 0..limit-1.
    """

    name: str
    dtype: DType
    shape: tuple[int | str, ...] = ()
    limit: int | None = None

    @property
    def open_sizes(self) -> tuple[str, ...]:
        """The names of the sizes that stay open."""
        return tuple(size for size in self.shape if isinstance(size, str))

    def fits(self, found: Sequence[int], sizes: dict[str, int]) -> bool:
        """Whether `found` is the shape of rows of this input; an open size is the one that `sizes` has under its name,
        or becomes it."""
        return len(found) == len(self.shape) + 1 and all(
            size == (sizes.setdefault(asked, size) if isinstance(asked, str) else asked)
            for asked, size in zip(self.shape, found[1:], strict=True)
        )

    def __str__(self) -> str:
        return f"{self.name} [{', '.join(map(str, ('N', *self.shape)))}] {self.dtype}"


@dataclass(frozen=True)
class Prompt:
    """What a step graph takes in place of conditions: the outputs of the prompt graph in the file beside it.

    Attributes:
        values: The outputs, `float32`.
        instead_of: The conditions that the step graph does not take.
        sha256: Of the file with the prompt graph: whoever knows the step graph knows both.
    """

    values: tuple[Input, ...]
    instead_of: tuple[str, ...]
    sha256: str

    def step_inputs(self, inputs: Sequence[Input]) -> tuple[Input, ...]:
        """What the step graph of a denoiser of these `inputs` takes."""
        return (*(each for each in inputs if each.name not in self.instead_of), *self.values)


def label(classes: int) -> Input:
    """The condition of a class-conditional denoiser: 0..classes-1."""
    return Input(LABEL, "int64", (), classes)


def inputs_to_json(inputs: Sequence[Input]) -> list[dict[str, Any]]:
    """`inputs` as JSON holds them."""
    return [{"name": it.name, "dtype": it.dtype, "shape": list(it.shape), "limit": it.limit} for it in inputs]


def inputs_from_json(value: Any, where: str) -> tuple[Input, ...]:
    """The inputs that `inputs_to_json` told; `where` is the file that says so.

    Raises:
        InputError: it tells no inputs of a denoiser.
    """
    found = values_from_json(value, where)
    names = [each.name for each in found]
    if names[:2] != [SAMPLE, TIMESTEP]:
        raise InputError(f"{where} is not a denoiser of (sample, timestep): it takes {', '.join(names) or 'nothing'}")
    return found


def values_from_json(value: Any, where: str) -> tuple[Input, ...]:
    """Inputs or outputs of any graph, as `inputs_to_json` told them; `where` is the file that says so.

    Raises:
        InputError: it tells none, or two of one name.
    """
    try:
        found = tuple(_input(each) for each in value)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{where} does not say what its inputs are: {error}", "export it again") from error
    names = [each.name for each in found]
    if len({*names}) != len(names):
        raise InputError(f"{where} names an input twice: {', '.join(names)[:200]}", "export it again")
    return found


def prompt_to_json(prompt: Prompt) -> dict[str, Any]:
    """`prompt` as JSON holds it."""
    values = inputs_to_json(prompt.values)
    return {"values": values, "instead_of": list(prompt.instead_of), "sha256": prompt.sha256}


def prompt_from_json(value: Any, where: str) -> Prompt:
    """The prompt graph's values that `prompt_to_json` told; `where` is the file that says so.

    Raises:
        InputError: it tells none.
    """
    try:
        values = values_from_json(value["values"], where)
        instead_of, sha256 = tuple(value["instead_of"]), value["sha256"]
    except (TypeError, KeyError) as error:
        raise InputError(f"{where} does not say what its prompt graph is: {error!r}", "export it again") from error
    texts = all(isinstance(text, str) for text in (*instead_of, sha256))
    if not (texts and values and all(it.dtype == "float32" and it.limit is None for it in values)):
        raise InputError(f"{where} does not say what its prompt graph is", "export it again")
    return Prompt(values, instead_of, sha256)


def _input(value: Mapping[str, Any]) -> Input:
    name, dtype, shape, limit = value["name"], value["dtype"], tuple(value["shape"]), value["limit"]
    if not (isinstance(name, str) and name.isidentifier() and dtype in ("float32", "int64")):
        raise ValueError(f"no input is called {name!r:.40} and of type {dtype!r:.20}")
    sizes = all((isinstance(size, str) and size.isidentifier()) or _is_count(size) for size in shape)
    if not sizes or len(shape) > MOST_DIMENSIONS or not (limit is None or _is_count(limit)):
        raise ValueError(f"the shape or the limit of {name} are none")
    return Input(name, dtype, shape, limit)


MOST_DIMENSIONS = 7


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 1 << 28
