"""A denoiser around one of diffusers' transformer blocks, and one written by hand that divides channels nowhere."""

import torch
from calibrators_toys import denoiser_of
from diffusers.models.attention import BasicTransformerBlock
from torch import Tensor, nn

from ptq_export.denoiser import Denoiser

WIDTH = 32


class Around(nn.Module):
    """A block of rows `[N, H W, WIDTH]` between two convolutions, the time-step added to what it reads."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.conv_in, self.time = nn.Conv2d(2, WIDTH, 3, padding=1), nn.Linear(1, WIDTH)
        self.block, self.conv_out = block, nn.Conv2d(WIDTH, 2, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        hidden = self.conv_in(sample)
        rows = hidden.flatten(2).transpose(1, 2) + self.time(timestep.float()[:, None] / 1000)[:, None]
        return self.conv_out(self.block(rows).transpose(1, 2).reshape(hidden.shape))


def transformer(outliers: float = 1.0) -> Denoiser:
    """Self-attention and a gated feed-forward; two channels of each norm are `outliers` times as large."""
    torch.manual_seed(0)
    block = BasicTransformerBlock(WIDTH, 4, 8)
    for norm in (block.norm1, block.norm3):
        norm.weight.data[[3, 17]] *= outliers
    return denoiser_of(Around(block), (2, 6, 6))


class Twice(nn.Module):
    """What the norm makes is read by a linear, and added to its result; what that makes by one behind a GELU, whose
    source it cannot be, and so by the last, behind a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.first = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)
        self.second, self.third = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        x = x + self.first(x)
        return self.third(self.second(nn.functional.gelu(x)).softmax(-1))


def uncompensated() -> Denoiser:
    """No tensor of it can be divided."""
    torch.manual_seed(0)
    return denoiser_of(Around(Twice()), (2, 6, 6))
