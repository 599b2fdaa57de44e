"""A denoiser small enough to be quantised whole in a test: two levels, attention in the middle, seeded weights."""

from pathlib import Path

import torch
from diffusers import UNet2DModel

from ptq_export.denoiser import Denoiser, NoiseSchedule, Source, UNetEps
from ptq_export.options import Options

SPEC = "tiny:denoiser"


def denoiser() -> Denoiser:
    """The factory behind `SPEC`; this folder must be on the module path."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = UNet2DModel(
            sample_size=8,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(32, 32),
            norm_num_groups=8,
            attention_head_dim=8,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
        )
    return Denoiser(UNetEps(unet), NoiseSchedule(), (1, 8, 8), Source(SPEC, "", ""))


def options(out: Path) -> Options:
    """The least that the main job can be asked for."""
    return Options(SPEC, out=out, samples=4, steps=3, iterations=2, held_out=2, rounds=10, seconds=0.1, threads=1)
