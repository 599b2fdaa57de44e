"""OpenAI's nets as diffusers' `UNet2DModel`: its keyword arguments, and what those cannot say set afterwards."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import Timesteps
from torch import Tensor, nn

from ptq_export.checkpoints.fit import fit
from ptq_export.checkpoints.openai_flags import Flags
from ptq_export.checkpoints.openai_layout import Layout
from ptq_export.checkpoints.openai_names import openai_name, split_qkv
from ptq_export.checkpoints.unet import build_unet
from ptq_export.denoiser import UNetEps

__all__ = ["build_openai", "set_heads", "unet_config"]


def unet_config(layout: Layout, resolution: int) -> dict[str, Any]:
    """`UNet2DModel`'s keyword arguments; the heads are set afterwards (`set_heads`)."""
    resample = "Resnet{}sampleBlock2D" if layout.resblock_updown else "{}Block2D"
    levels = range(layout.levels)
    down, up = (
        [f"Attn{way}Block2D" if level in layout.attention else resample.format(way) for level in levels]
        for way in ("Down", "Up")
    )
    kind = "resnet" if layout.resblock_updown else "conv"
    return {
        "sample_size": resolution,
        "in_channels": layout.in_channels,
        "out_channels": layout.out_channels,
        "block_out_channels": list(layout.widths),
        "layers_per_block": layout.blocks,
        "down_block_types": down,
        "up_block_types": up[::-1],
        "downsample_type": kind,
        "upsample_type": kind,
        "downsample_padding": 1,
        "time_embedding_dim": 4 * layout.time_width,
        "resnet_time_scale_shift": "scale_shift" if layout.scale_shift else "default",
        "num_class_embeds": layout.classes,
        "attention_head_dim": None,
        "attn_norm_num_groups": 32,
        "flip_sin_to_cos": True,
        "freq_shift": 0,
        "norm_eps": 1e-5,
    }


def build_openai(layout: Layout, flags: Flags, resolution: int, tensors: Mapping[str, Tensor], path: str) -> UNetEps:
    """The net with the tensors of `path`, which have OpenAI's names.

    Raises:
        InputError: the tensors do not fit the net.
    """
    thirds = split_qkv(tensors, flags, path)
    rename = partial(openai_name, layout=layout)
    time_layer = None
    if layout.time_width != layout.widths[0]:
        time_layer = _time_layer(layout, tensors, path)
        thirds["time_embed.0.weight"] = torch.zeros(4 * layout.time_width, layout.widths[0])  # replaced below
    module = build_unet(unet_config(layout, resolution), thirds, path, rename, flags.time_scale)
    if time_layer is not None:
        module.unet.time_proj = Timesteps(layout.time_width, flip_sin_to_cos=True, downscale_freq_shift=0)
        module.unet.set_submodule("time_embedding.linear_1", time_layer.requires_grad_(False))
    set_heads(module, flags)
    return module


def set_heads(module: nn.Module, flags: Flags) -> None:
    """The heads of every attention, with all that `Attention` derives from them, so that every processor sees them.

    `UNet2DModel` takes one width of all heads only, and of the nets here some have one count of heads.
    """
    for attention in module.modules():
        if isinstance(attention, Attention):
            heads = flags.heads_over(attention.inner_dim)
            attention.heads = attention.sliceable_head_dim = heads
            attention.scale = (attention.inner_dim / heads) ** -0.5


def _time_layer(layout: Layout, tensors: Mapping[str, Tensor], path: str) -> nn.Linear:
    """`UNet2DModel` takes as many sines and cosines as its stem is wide; the 512x512 net has twice as many."""
    linear = nn.Linear(layout.time_width, 4 * layout.time_width, device="meta")
    prefix = "time_embed.0."
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    fit(linear, own, path, lambda name: prefix + name)
    return linear
