"""Convolutions and products that a network computes outside of `nn.Conv2d` and `nn.Linear`: nobody can replace them.

They are counted where they happen, among the operators that torch dispatches: a convolution of any kind, or a product
with a weight of the network. Products of two activations (attention) have no weight and are none of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from ptq_export.denoiser import Denoiser
from ptq_export.nn.probe import probe

__all__ = ["own_operations"]

_CONVOLUTIONS = {"aten::convolution", "aten::_convolution", "aten::mkldnn_convolution"}
_PRODUCTS = {"aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", "aten::_native_multi_head_attention"}


def own_operations(denoiser: Denoiser) -> dict[str, int]:
    """How many of them each module computes itself, by module path, in one evaluation."""
    storages = {parameter.untyped_storage().data_ptr() for parameter in denoiser.module.parameters()}
    found: dict[str, int] = {}
    with _running(denoiser.module) as stack:

        class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
            def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
                name = function._schema.name
                if name in _CONVOLUTIONS or (name in _PRODUCTS and _reads(args, storages)):
                    path, module = stack[-1]
                    if not isinstance(module, nn.Conv2d | nn.Linear):
                        found[path] = found.get(path, 0) + 1
                return function(*args, **(kwargs or {}))

        with Counting():  # type: ignore[no-untyped-call]
            probe(denoiser).rows(slice(1)).through(denoiser)
    return found


def _reads(args: Any, storages: set[int]) -> bool:
    return any(isinstance(value, Tensor) and value.untyped_storage().data_ptr() in storages for value in args)


@contextmanager
def _running(net: nn.Module) -> Iterator[list[tuple[str, nn.Module]]]:
    """The modules that are being called, the innermost last."""
    stack: list[tuple[str, nn.Module]] = []
    handles = []
    for name, module in net.named_modules():
        handles += [
            module.register_forward_pre_hook(lambda called, _, name=name: stack.append((name, called))),
            module.register_forward_hook(lambda *_: [stack.pop(), None][1], always_call=True),
        ]
    try:
        yield stack
    finally:
        for handle in handles:
            handle.remove()
