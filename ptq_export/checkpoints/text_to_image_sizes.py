"""The published configurations of Stable Diffusion's U-Nets, with what their pipelines have around them.

Stable Diffusion 1.5: runwayml/stable-diffusion-v1-5, `unet/config.json` (Rombach et al., arXiv:2112.10752). SDXL:
stabilityai/stable-diffusion-xl-base-1.0, the same file (Podell et al., arXiv:2307.01952).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptq_export.checkpoints.conventions import LATENT_DIFFUSION
from ptq_export.checkpoints.latent_denoiser import Around
from ptq_export.denoiser import NoiseSchedule

__all__ = ["SD15", "SDXL", "STABLE_DIFFUSION", "TextToImage"]

STABLE_DIFFUSION = NoiseSchedule(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    clip_sample=False,
    settings=LATENT_DIFFUSION,
)


@dataclass(frozen=True)
class TextToImage:
    """The keyword arguments of a `UNet2DConditionModel`, and its surroundings."""

    config: Mapping[str, Any]
    around: Around


SD15 = TextToImage(  # 859.5 M parameters
    {
        "sample_size": 64,
        "block_out_channels": [320, 640, 1280, 1280],
        "layers_per_block": 2,
        "down_block_types": [*["CrossAttnDownBlock2D"] * 3, "DownBlock2D"],
        "up_block_types": ["UpBlock2D", *["CrossAttnUpBlock2D"] * 3],
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    Around(channels=4, factor=8, tokens=77),
)
SDXL = TextToImage(  # 2.567 billion
    {
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2, 10],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
    Around(channels=4, factor=8, tokens=77, pooled=1280),
)
