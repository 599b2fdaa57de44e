"""Averaged weights (EMA, SWA, Polyak): what trainers call them, and the names of those kept as a bare list."""

import re
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["complete", "is_average", "pair"]

_WORDS = {"ema", "swa", "average", "averaged", "averages", "shadow", "polyak"}


def is_average(name: str) -> bool:
    """Whether an entry or a prefix of this name holds averages: `ema`, `model_ema`, `ema_helper`, not `non_ema`."""
    words = re.split("[^a-z]+", name.lower())
    return not _WORDS.isdisjoint(words) and "non" not in words


def pair(values: Sequence[Tensor], live: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Names of `live` for `values`, which torch_ema and diffusers' `EMAModel` keep in the order of the parameters.

    A state dict has that order too, with buffers and frozen parameters between. So `values` must be found in `live`,
    one by one, with equal shapes; and in one way only, which is so if taking each as early as it can be and as late as
    it can be come to the same. None where it is not so, or where most of `live` would be left out: then nobody knows
    what belongs to what.
    """
    names = [name for name, tensor in live.items() if tensor.is_floating_point()]
    if 2 * len(values) < len(names):
        return None
    shapes = [live[name].shape for name in names]
    early = _embed([value.shape for value in values], shapes)
    late = _embed([value.shape for value in reversed(values)], shapes[::-1])
    if early is None or late is None or early != [len(names) - 1 - index for index in reversed(late)]:
        return None
    return {names[index]: value for index, value in zip(early, values, strict=True)}


def complete(average: Mapping[str, Tensor], live: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], int]:
    """`average`, with what it leaves out (buffers, frozen parameters) from `live`; and how many tensors that are.

    Nothing is added where `average` has a name or a shape that `live` has not: they are two nets then.
    """
    if not all(name in live and live[name].shape == tensor.shape for name, tensor in average.items()):
        return dict(average), 0
    return {name: average.get(name, tensor) for name, tensor in live.items()}, len(live) - len(average)


def _embed(shapes: Sequence[torch.Size], among: Sequence[torch.Size]) -> list[int] | None:
    """Where `shapes` stand in `among`, in this order, each as early as it can be."""
    found, start = [], 0
    for shape in shapes:
        index = next((index for index in range(start, len(among)) if among[index] == shape), None)
        if index is None:
            return None
        found.append(index)
        start = index + 1
    return found
