"""What a module was called with, kept so that it can be called again: positions, keywords, `None` and all."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Call", "the_input"]


@dataclass(frozen=True)
class Call:
    """The arguments of one call, bound to the parameters of the module's `forward`.

    Tensors with as many rows as the call's output are one row per sample; other values belong to the call as a whole.
    """

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    count: int

    @classmethod
    def of(cls, module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any], output: Tensor) -> "Call":
        """The call that made `output` `[count, ...]`."""
        bound = inspect.signature(module.forward).bind(*args, **kwargs)
        return cls(bound.args, bound.kwargs, len(output) if output.ndim else 0)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors among the arguments, those by position first."""
        return tuple(value for value in (*self.args, *self.kwargs.values()) if isinstance(value, Tensor))

    def again(self, module: nn.Module) -> Tensor:
        """What `module` makes of the same arguments."""
        result: Tensor = module(*self.args, **self.kwargs)
        return result

    def map(self, change: Callable[[Tensor], Tensor]) -> "Call":
        """The call with other tensors."""
        return self._each(lambda value: change(value) if isinstance(value, Tensor) else value, self.count)

    def rows(self, index: Tensor) -> "Call":
        """The call for some of the samples."""
        return self._each(lambda value: value[index] if self._is_batched(value) else value, len(index))

    def _each(self, change: Callable[[Any], Any], count: int) -> "Call":
        kwargs = {name: change(value) for name, value in self.kwargs.items()}
        return Call(tuple(map(change, self.args)), kwargs, count)

    def _is_batched(self, value: Any) -> bool:
        return isinstance(value, Tensor) and value.ndim > 0 and len(value) == self.count

    @staticmethod
    def join(calls: "Sequence[Call]") -> "Call":
        """One call for the samples of several that differ in nothing else."""
        first = calls[0]

        def joined(values: Sequence[Any]) -> Any:
            pairs = zip(calls, values, strict=True)
            return torch.cat(list(values)) if all(call._is_batched(value) for call, value in pairs) else values[0]

        args = tuple(joined(column) for column in zip(*(call.args for call in calls), strict=True))
        kwargs = {name: joined([call.kwargs[name] for call in calls]) for name in first.kwargs}
        return Call(args, kwargs, sum(call.count for call in calls))


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
