"""The shortcut convolution over a skip concat as two convolutions and an Add, each with an input grid of its own.

The halves of an up-block's concat have different ranges (Q-Diffusion, arXiv:2302.04304, section 4.2). Equal in float;
where inputs have one step per channel anyway, the split brings an output grid more and little else: measure.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ptq_export.denoiser import Denoiser
from ptq_export.nn.bake import is_plain
from ptq_export.nn.calls import the_input
from ptq_export.nn.probe import blank
from ptq_export.nn.share import share

__all__ = ["SplitConv2d", "split_shortcuts"]


class SplitConv2d(nn.Module):
    """conv(concat(a, b)) = first(a) + second(b), `a` being the first `channels` channels."""

    def __init__(self, conv: nn.Conv2d, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.first = _part(conv, slice(0, channels), conv.bias)
        self.second = _part(conv, slice(channels, None), None)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """The convolution of `[N, C, H, W]`."""
        x = the_input(args, kwargs)
        result: Tensor = self.first(x[:, : self.channels]) + self.second(x[:, self.channels :])
        return result


def split_shortcuts(denoiser: Denoiser) -> Denoiser:
    """A copy of the denoiser in which every 1x1 convolution that reads a concat of two is split."""
    module = share(denoiser.module)
    widths: dict[int, int] = {}
    found: dict[str, int] = {}

    class Concats(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            if function is torch.cat and len(args[0]) == 2 and args[0][0].ndim == 4:
                widths[id(result)] = args[0][0].shape[1]
                kept.append(result)
            return result

    def joined(name: str, x: Tensor) -> None:
        if id(x) in widths:
            found[name] = widths[id(x)]

    kept: list[Tensor] = []  # an id is unique only while its tensor lives
    handles = [
        conv.register_forward_pre_hook(
            lambda _, args, kwargs, name=name: joined(name, the_input(args, kwargs)), with_kwargs=True
        )
        for name, conv in module.named_modules()
        if isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.groups == 1 and is_plain(conv)
    ]
    with Concats(), torch.no_grad():
        blank(denoiser).through(module)
    for handle in handles:
        handle.remove()
    for name, channels in found.items():
        conv = module.get_submodule(name)
        assert isinstance(conv, nn.Conv2d)
        module.set_submodule(name, SplitConv2d(conv, channels))
    return replace(denoiser, module=module)


def _part(conv: nn.Conv2d, channels: slice, bias: Tensor | None) -> nn.Conv2d:
    weight = conv.weight[:, channels]
    part = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    part.stride, part.padding = conv.stride, conv.padding
    part.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    if bias is not None:
        part.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return part
