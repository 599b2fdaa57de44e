"""A network's forward that halts at a module and goes on from there later: a coroutine, and the network need not know.

`greenlet` switches between call stacks of one thread: what a forward raises (an interruption, too) is raised by whoever
made it go on, and a forward that is given up is unwound. A module that was replaced while the forward was halted is
called in its new form, whatever the network's own variables still refer to: `follow_replacements`.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any

import torch
from greenlet import getcurrent, greenlet
from torch import Tensor, nn

from ptq_export.pairs import Pairs

__all__ = ["Halt", "SuspendedForward", "follow_replacements"]


@dataclass(frozen=True)
class Halt:
    """Where a forward stands: the arguments of the module's call, and its output where it stands behind the module."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Tensor | None


class SuspendedForward:
    """The forward of `model` over some pairs, without gradients, as far as it was asked to go."""

    def __init__(self, model: nn.Module, pairs: Pairs) -> None:
        self._model = model
        self._forward = greenlet(partial(pairs.through, model))

    def until(self, name: str, behind: bool) -> Halt | None:
        """Go on to the next call of the module `name`, and stand before or behind it; None: it is not called any more.

        From before it, the module that then has this name is called.
        """
        module = self._model.get_submodule(name)
        with _in_place_of_forward(module, partial(_halt, module.forward, behind)):
            found = self._go_on()
        return found if isinstance(found, Halt) else None

    def finish(self) -> Tensor:
        """Go on to the end: what the network makes."""
        result: Tensor = self._go_on()
        return result

    def close(self) -> None:
        """Give the forward up."""
        if not self._forward.dead:
            self._forward.throw()

    @torch.no_grad()
    def _go_on(self) -> Any:
        return None if self._forward.dead else self._forward.switch()


def _halt(forward: Callable[..., Tensor], behind: bool, *args: Any, **kwargs: Any) -> Tensor:
    """In place of a module's `forward`."""
    main = getcurrent().parent
    assert main is not None, "a forward is run by SuspendedForward"
    if not behind:
        main.switch(Halt(args, kwargs, None))
        return forward(*args, **kwargs)
    output = forward(*args, **kwargs)
    main.switch(Halt(args, kwargs, output))
    return output


@contextmanager
def _in_place_of_forward(module: nn.Module, function: Callable[..., Tensor]) -> Iterator[None]:
    """Call `function` in place of `module.forward` while the block runs."""
    before = module.__dict__.get("forward")
    module.__dict__["forward"] = wraps(module.forward)(function)
    try:
        yield
    finally:
        del module.__dict__["forward"]
        if before is not None:
            module.__dict__["forward"] = before


@contextmanager
def follow_replacements(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """While the block runs, have each of these modules call the one that stands in its place, once there is another.

    A module that has a second place in the network does not: there it stays what it was.
    """
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    modules = {name: model.get_submodule(name) for name in names}
    followed = {name: module for name, module in modules.items() if places[id(module)] == 1}
    with ExitStack() as stack:
        for name, module in followed.items():
            stack.enter_context(_in_place_of_forward(module, partial(_current, model, name, module, module.forward)))
        yield


def _current(
    model: nn.Module, name: str, module: nn.Module, forward: Callable[..., Tensor], *args: Any, **kwargs: Any
) -> Tensor:
    now = model.get_submodule(name)
    result: Tensor = forward(*args, **kwargs) if now is module else now(*args, **kwargs)
    return result
