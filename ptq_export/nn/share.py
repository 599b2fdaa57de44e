"""Copies of networks in which layers are replaced: a network of gigabytes is in memory once, not once per step."""

import copy
from typing import Any, TypeVar

from torch import nn

__all__ = ["share"]

Net = TypeVar("Net", bound=nn.Module)


def share(module: Net) -> Net:
    """A copy of a module whose parameters and buffers lie in the module's own memory: to be replaced, never written
    into. Whether it wants gradients is its own affair."""
    memo: dict[int, Any] = {id(buffer): buffer for buffer in module.buffers()}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.detach(), parameter.requires_grad)
    return copy.deepcopy(module, memo)
