"""What a denoiser is given besides the sample and the time-step: tensors by name, one row per sample.

A class label, a text's hidden states and their mask, a low-resolution image, a global vector: all are conditions.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ptq_export.errors import InputError
from ptq_export.interface import Input

__all__ = ["UNCONDITIONAL", "Conditions", "batched", "check_examples", "draw", "drawn_rows", "move", "rows"]

Conditions = Mapping[str, Tensor]
"""`[N, ...]` by the name of the input."""

UNCONDITIONAL: Conditions = {}


def rows(conditions: Conditions, index: Tensor | slice) -> dict[str, Tensor]:
    """The conditions of some of the samples."""
    return {name: value[index] for name, value in conditions.items()}


def move(conditions: Conditions, device: torch.device) -> dict[str, Tensor]:
    """The same conditions on `device`."""
    return {name: value.to(device) for name, value in conditions.items()}


def batched(conditions: Conditions, size: int, count: int) -> list[dict[str, Tensor]]:
    """The conditions of `count` samples, at most `size` at a time."""
    return [rows(conditions, slice(first, first + size)) for first in range(0, count, size)]


def draw(inputs: Sequence[Input], examples: Conditions, count: int, seed: int) -> dict[str, Tensor]:
    """Conditions of `count` samples: rows of `examples`, which belong together and are all used before one comes
    again; integers that have no examples are drawn from all that there are.

    Raises:
        InputError: a float input without examples.
    """
    chosen = drawn_rows(len(next(iter(examples.values()))), count, seed) if examples else None
    found = {}
    for each in inputs:
        if each.name in examples and chosen is not None:
            found[each.name] = examples[each.name][chosen]
        elif each.limit is not None and not each.open_sizes:
            shape = [count, *(size for size in each.shape if isinstance(size, int))]
            found[each.name] = torch.randint(each.limit, shape, generator=torch.Generator().manual_seed(seed))
        else:
            raise InputError(
                f"there are no examples of the condition {each}", "give some: Denoiser(..., examples={...})"
            )
    return found


def check_examples(inputs: Sequence[Input], examples: Conditions) -> None:
    """Refuse examples that are not those of `inputs`.

    Raises:
        InputError: an unknown or absent name, a wrong type or shape, another number of rows, an integer past its limit.
    """
    known = {each.name: each for each in inputs}
    if unknown := sorted({*examples} - {*known}):
        raise InputError(f"there is no condition {', '.join(unknown)}", f"known: {', '.join(known) or 'none'}")
    counts = {len(value) for value in examples.values() if value.ndim}
    if len(counts) > 1 or 0 in counts:
        raise InputError("the examples of the conditions have different numbers of rows, or none", "one row per sample")
    sizes: dict[str, int] = {}
    for name, value in examples.items():
        _check(known[name], value, sizes)
    draw(inputs, examples, 1, 0)


def _check(wanted: Input, value: Tensor, sizes: dict[str, int]) -> None:
    if not wanted.fits(value.shape, sizes) or str(value.dtype) != f"torch.{wanted.dtype}":
        raise InputError(f"the examples of {wanted} are {list(value.shape)} {value.dtype}", "see Input.shape and dtype")
    if not value.isfinite().all():
        raise InputError(f"the examples of {wanted} hold NaN or infinite values", "give finite ones")
    if wanted.limit is not None and not (int(value.min()) >= 0 and int(value.max()) < wanted.limit):
        raise InputError(f"the examples of {wanted} are out of range", f"known: 0..{wanted.limit - 1}")


def drawn_rows(available: int, count: int, seed: int) -> Tensor:
    """Which of so many examples `draw` takes, `[count]`."""
    generator = torch.Generator().manual_seed(seed)
    turns = [torch.randperm(available, generator=generator) for _ in range(-(-count // available))]
    return torch.cat(turns)[:count]
