"""What a module was called with, whichever way the caller spelt it."""

import inspect
from typing import Any

from torch import Tensor, nn

__all__ = ["tensor_arguments"]


def tensor_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, ...]:
    """The tensors among a call's arguments, by position: diffusers' resampling blocks give `temb` by its name."""
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    return tuple(value for value in bound.args if isinstance(value, Tensor))
