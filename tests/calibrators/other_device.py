"""A second device for machines without one: its tensors say `meta`, hold numbers all the same, and mix with no other.

What runs inside `OtherDevice()` computes what the CPU computes; an operation that meets tensors of both devices fails
as it does on a GPU, and so does one that reads a tensor that was made on the wrong one. (Scalars may mix there too.)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ptq_export.denoiser import Denoiser

OTHER = torch.device("meta")


class Away(Tensor):
    """A tensor of the other device; `here` has its numbers."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> "Away":
        away = Tensor._make_wrapper_subclass(
            cls, here.shape, strides=here.stride(), dtype=here.dtype, device=OTHER, requires_grad=here.requires_grad
        )
        away.here = here
        return away

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"Away({self.here!r})"

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{function} outside OtherDevice()")


class OtherDevice(TorchDispatchMode):
    """Computes on the other device while it is entered."""

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        keywords = dict(kwargs or {})
        given = [value for value in tree_leaves((args, keywords)) if isinstance(value, Tensor)]
        away = any(isinstance(value, Away) for value in given)
        made_there = keywords.get("device") == OTHER if "device" in keywords else away
        if "device" in keywords:
            keywords["device"] = torch.device("cpu")
        if "copy" not in str(function) and len({isinstance(value, Away) for value in given if value.ndim}) > 1:
            raise RuntimeError(f"{function} met tensors of two devices")
        plain, plain_keywords = tree_map_only(Away, lambda value: value.here, (args, keywords))
        result = function(*plain, **plain_keywords)
        if str(function).partition(".")[2].endswith("_.default"):  # in place: the first argument is the result
            return args[0]
        return tree_map_only(Tensor, Away, result) if made_there else result


def elsewhere(denoiser: Denoiser) -> Denoiser:
    """`denoiser` with its parameters on the other device."""
    for module in denoiser.module.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            module.register_parameter(name, nn.Parameter(Away(parameter.data), requires_grad=False))
    return replace(denoiser)
