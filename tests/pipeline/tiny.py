"""A denoiser small enough to be quantised whole in a test: two levels, attention in the middle, seeded weights."""

from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel

from ptq_export.denoiser import Denoiser, NoiseSchedule, Source, UNetEps
from ptq_export.interface import label
from ptq_export.options import Options

SPEC, CONDITIONAL, ONE_LEVEL = "tiny:denoiser", "tiny:conditional", "tiny:one_level"
CLASSES = 3


def denoiser() -> Denoiser:
    """The factory behind `SPEC`; this folder must be on the module path."""
    return Denoiser(UNetEps(_unet(out_channels=1)), NoiseSchedule(), (1, 8, 8), Source(SPEC, "", ""))


def conditional(levels: int = 2) -> Denoiser:
    """As OpenAI's: three classes, a learned variance, adaptive norms, residual blocks that resample, and T = 4000 in a
    network that knows the times 0..1000."""
    unet = _unet(
        block_out_channels=(32,) * levels,
        out_channels=2,
        num_class_embeds=CLASSES,
        resnet_time_scale_shift="scale_shift",
        attn_norm_num_groups=8,
        down_block_types=("ResnetDownsampleBlock2D",) * levels,
        up_block_types=("ResnetUpsampleBlock2D",) * levels,
    )
    module = UNetEps(unet, 0.25)
    schedule = NoiseSchedule(4000, "squaredcos_cap_v2", variance_type="learned_range")
    return Denoiser(module, schedule, (1, 8, 8), Source(CONDITIONAL, "", ""), (label(CLASSES),))


def one_level() -> Denoiser:
    """The same in half the layers."""
    return conditional(levels=1)


def _unet(**architecture: Any) -> UNet2DModel:
    plain = {
        "block_out_channels": (32, 32),
        "down_block_types": ("DownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "UpBlock2D"),
    }
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet2DModel(
            sample_size=8,
            in_channels=1,
            layers_per_block=1,
            norm_num_groups=8,
            attention_head_dim=8,
            **plain | architecture,
        )


def options(out: Path, spec: str = SPEC) -> Options:
    """The least that the main job can be asked for; of weights that were never trained, 14 dB is all to be had."""
    least: dict[str, Any] = {
        "samples": 4,
        "steps": 2,
        "iterations": 2,
        "held_out": 2,
        "rounds": 10,
        "seconds": 0.1,
        "min_sqnr": 6.0,
    }
    return Options(spec, out=out, threads=1, **least)
