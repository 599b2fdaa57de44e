"""A stack of 3x3 convolutions as a denoiser, in full precision and quantised by hand as a scheme says."""

import torch
from torch import Tensor, nn

from ptq_export.calibrators.rounding import SoftLayer
from ptq_export.nn.layers import Grid
from ptq_export.nn.scheme import Scheme

__all__ = ["SIZE", "Stack", "quantised"]

SIZE = 8


class Stack(nn.Module):
    """`depth` convolutions of `width` channels with SiLU between them; the time-step shifts the input."""

    def __init__(self, width: int, depth: int = 4) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(depth))
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / (9 * width) ** 0.5)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        x = sample + 0.001 * timestep.float().reshape(-1, 1, 1, 1)
        for layer in self.layers:
            x = nn.functional.silu(layer(x))
        return x


def quantised(stack: Stack, scheme: Scheme) -> Stack:
    """Every layer rounded to nearest, behind an input grid that covers -4 to 4."""
    zero_point = (
        torch.tensor(0, dtype=torch.int8) if scheme.activations.signed else torch.tensor(128, dtype=torch.uint8)
    )
    for index, layer in enumerate(stack.layers):
        grid = Grid(torch.tensor(2.0**-5), zero_point)
        stack.layers[index] = SoftLayer(layer, grid, None, scheme, learn=False).harden()
    return stack
