"""A tiny U-Net with attention and one shortcut convolution over a skip concat, for the ablation's tests."""

import torch
from diffusers import UNet2DModel

from ptq_export.denoiser import Denoiser, NoiseSchedule, Source, UNetEps
from ptq_export.interface import label


def tiny(width: int = 8, classes: int | None = None) -> Denoiser:
    """A denoiser of samples `[N, 1, 8, 8]`, the same weights at every call."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ["AttnDownBlock2D"], "up_block_types": ["UpBlock2D"], "add_attention": False}
    unet = UNet2DModel(
        8, 1, 1, block_out_channels=(width,), layers_per_block=1, norm_num_groups=4, num_class_embeds=classes, **blocks
    )
    module = UNetEps(unet).eval().requires_grad_(False)
    return Denoiser(
        module,
        NoiseSchedule(),
        (1, 8, 8),
        Source(f"tiny {width}", "toy", str(width) * 64),
        () if classes is None else (label(classes),),
    )
