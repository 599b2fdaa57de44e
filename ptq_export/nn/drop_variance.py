"""Nets that learn the variance make 2 C channels; DDIM and DPM-Solver read the first C of them, eps."""

import copy
from dataclasses import replace

from torch import Tensor, nn

from ptq_export.denoiser import Denoiser
from ptq_export.errors import InputError
from ptq_export.nn.probe import blank
from ptq_export.nn.share import share

__all__ = ["drop_variance"]


def drop_variance(denoiser: Denoiser) -> Denoiser:
    """`denoiser` without the variance: its last convolution makes eps alone; unchanged if it makes nothing else.

    Raises:
        InputError: the output is not that of a convolution, so that it cannot be halved.
    """
    if not denoiser.schedule.learns_variance:
        return denoiser
    module = share(denoiser.module)
    name, last = _last_convolution(replace(denoiser, module=module))
    module.set_submodule(name, _first_half(last))
    dropped = denoiser.schedule.variance_type
    schedule = replace(denoiser.schedule, variance_type="fixed_small", dropped_variance=dropped)
    return replace(denoiser, module=module, schedule=schedule)


def _last_convolution(denoiser: Denoiser) -> tuple[str, nn.Conv2d]:
    """The convolution whose output is the network's."""
    layers = {name: layer for name, layer in denoiser.module.named_modules() if isinstance(layer, nn.Conv2d)}
    made: dict[str, Tensor] = {}
    handles = [
        layer.register_forward_hook(lambda _, __, output, name=name: made.__setitem__(name, output))
        for name, layer in layers.items()
    ]
    output = blank(denoiser).through(denoiser)
    for handle in handles:
        handle.remove()
    for name, value in made.items():
        if value is output:
            return name, layers[name]
    raise InputError("the variance of this network cannot be cut off: no convolution makes it", "use --variance keep")


def _first_half(layer: nn.Conv2d) -> nn.Conv2d:
    half = copy.copy(layer)
    half._parameters = dict(layer._parameters)
    half.out_channels = layer.out_channels // 2
    half.weight = nn.Parameter(layer.weight[: half.out_channels].clone(), requires_grad=False)
    if layer.bias is not None:
        half.bias = nn.Parameter(layer.bias[: half.out_channels].clone(), requires_grad=False)
    return half
