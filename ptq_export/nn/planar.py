"""Sequences as images of height 1: a `Conv1d` becomes a `Conv2d` over `[N, C, 1, L]`.

Integer convolutions are two-dimensional wherever they are fast; TensorRT has no others. The result is the same.
"""

from dataclasses import replace

from torch import Tensor, nn

from ptq_export.denoiser import Denoiser
from ptq_export.nn.share import share

__all__ = ["PlanarConv1d", "make_planar"]


class PlanarConv1d(nn.Module):
    """A convolution over `[N, C, L]`, computed by its `plane`, a `Conv2d` of height 1."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        (size,), (stride,), (dilation,) = conv.kernel_size, conv.stride, conv.dilation
        self.plane = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            (1, size),
            (1, stride),
            conv.padding if isinstance(conv.padding, str) else (0, conv.padding[0]),
            (1, dilation),
            conv.groups,
            conv.bias is not None,
            conv.padding_mode,
            device="meta",
        )
        self.plane.weight = nn.Parameter(conv.weight.detach().unsqueeze(2), requires_grad=conv.weight.requires_grad)
        self.plane.bias = conv.bias

    def forward(self, input: Tensor) -> Tensor:
        """`[N, O, L']` of `[N, C, L]`."""
        result: Tensor = self.plane(input.unsqueeze(2))
        return result.squeeze(2)


def make_planar(denoiser: Denoiser) -> Denoiser:
    """`denoiser` with every plain `Conv1d` in that form; itself if it has none.

    One that computes its weight in a forward of its own stays as it is, in float.
    """
    names = [name for name, module in denoiser.module.named_modules() if _is_plain(module)]
    if not names:
        return denoiser
    module = share(denoiser.module)
    for name in names:
        conv = module.get_submodule(name)
        assert isinstance(conv, nn.Conv1d)
        module.set_submodule(name, PlanarConv1d(conv))
    return replace(denoiser, module=module)


def _is_plain(module: nn.Module) -> bool:
    if type(module) is not nn.Conv1d or "forward" in vars(module):
        return False
    return not (module._forward_pre_hooks or module._forward_hooks) and isinstance(module.weight, nn.Parameter)
