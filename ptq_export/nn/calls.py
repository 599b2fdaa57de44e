"""What a module was called with, whichever way the caller spelt it."""

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

__all__ = ["tensor_arguments", "the_input"]


def tensor_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """The tensors among a call's arguments, by position: diffusers' resampling blocks give `temb` by its name.

    What has no position (`**kwargs`) counts where there is nothing else: a layer that takes its input by any name.
    """
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    placed = tuple(value for value in bound.args if isinstance(value, Tensor))
    return placed or (the_input(args, kwargs),)


def the_input(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """The first tensor of a call: what a layer reads, called `input`, `x` or by position.

    A layer that stands in another's place is called as that one was.

    Raises:
        TypeError: there is none.
    """
    for value in (*args, *kwargs.values()):
        if isinstance(value, Tensor):
            return value
    raise TypeError("a layer was called without a tensor")
