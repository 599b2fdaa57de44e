"""Padding of one side as a part of the convolution behind it.

diffusers' `Downsample2D` without padding of its own adds a row below and a column on the right (as Ho et al.'s code
does) before it convolves. A quantiser of the convolution's input then stands between the two, where engines cannot
merge them; inside the convolution the padding follows the quantiser. The result is the same: zero is on every grid.
"""

from dataclasses import replace
from typing import Any

from diffusers.models.downsampling import Downsample2D
from torch import nn

from ptq_export.denoiser import Denoiser
from ptq_export.nn.convolution import PaddedConv2d
from ptq_export.nn.share import share

__all__ = ["pad_inside"]


def pad_inside(denoiser: Denoiser) -> Denoiser:
    """`denoiser` with that padding inside its convolutions; itself if it has none."""
    if not _padding_outside(denoiser.module):
        return denoiser
    module = share(denoiser.module)
    for part in _padding_outside(module):
        part.conv = PaddedConv2d(part.conv, (0, 1, 0, 1))
        if hasattr(part, "Conv2d_0"):  # diffusers' older name of the same convolution
            part.Conv2d_0 = part.conv
        part.padding = 1  # anything but 0: its forward pads no more
    return replace(denoiser, module=module)


def _padding_outside(module: nn.Module) -> list[Any]:
    """The parts, `Downsample2D`, that pad before their convolution."""
    parts = (part for part in module.modules() if isinstance(part, Downsample2D))
    return [part for part in parts if part.use_conv and part.padding == 0]
