"""A U-Net of two levels, small enough to be called in a test, seeded."""

import torch
from diffusers import UNet2DModel

from ptq_export.denoiser import Denoiser, NoiseSchedule, Source, UNetEps

__all__ = ["two_levels"]


def two_levels(padding: int = 1) -> Denoiser:
    """On samples `[N, 1, 8, 8]`; with `padding` 0 its downsampling pads one side alone."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
        downsample_padding=padding,
    )
    module = UNetEps(unet).eval().requires_grad_(False)
    return Denoiser(module, NoiseSchedule(), (1, 8, 8), Source("tiny", "test", "0"))
