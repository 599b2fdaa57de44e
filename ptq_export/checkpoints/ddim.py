"""State dicts of ermongroup/ddim and pesser's conversions: the U-Net of Ho et al. (2020), read from tensor shapes.

Levels, widths, residual blocks and attention are counted in the keys. Two things leave no trace in the tensors: the
noise schedule (linear, T = 1000, in every published configuration) and the resolution, see `_resolution`.
"""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor

from ptq_export.checkpoints.conventions import ERMONGROUP
from ptq_export.checkpoints.keys import count, shape_of
from ptq_export.checkpoints.told import ASSUMED
from ptq_export.checkpoints.unet import build_unet, sample_shape, with_variance
from ptq_export.checkpoints.weights import Format, Weights
from ptq_export.denoiser import Denoiser, NoiseSchedule
from ptq_export.errors import InputError

__all__ = ["DDIM", "ddim_config", "ddim_name"]

_NAME = "ermongroup/ddim"
_SCHEDULE_NOTE = (
    f"{ASSUMED}: predict=eps, betas=linear, timesteps=1000, as in every published ermongroup/ddim configuration; "
    "--assume KEY=VALUE sets another"
)
_RENAMED = {
    "time_embedding.linear_1": "temb.dense.0",
    "time_embedding.linear_2": "temb.dense.1",
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.attentions.0": "mid.attn_1",
    "mid_block.resnets.1": "mid.block_2",
    "down_blocks.": "down.",
    "up_blocks.": "up.",
    ".resnets.": ".block.",
    ".attentions.": ".attn.",
    ".time_emb_proj.": ".temb_proj.",
    ".conv_shortcut.": ".nin_shortcut.",
    ".group_norm.": ".norm.",
    ".to_q.": ".q.",
    ".to_k.": ".k.",
    ".to_v.": ".v.",
    ".to_out.0.": ".proj_out.",
    ".downsamplers.0.": ".downsample.",
    ".upsamplers.0.": ".upsample.",
    "conv_norm_out.": "norm_out.",
}


def ddim_name(unet_name: str, levels: int) -> str:
    """How ermongroup/ddim calls a tensor of `UNet2DModel`; its `up` counts from the high-resolution end."""
    name = unet_name
    for new, old in _RENAMED.items():
        name = name.replace(new, old)
    return re.sub(r"^up\.(\d+)", lambda found: f"up.{levels - 1 - int(found[1])}", name)


def ddim_config(tensors: Mapping[str, Tensor], path: str) -> dict[str, Any]:
    """`UNet2DModel`'s keyword arguments for a ddim state dict, all but the sample size.

    Raises:
        InputError: the tensors that tell are missing, or the net is one that `UNet2DModel` cannot express.
    """
    levels = count(tensors, "down.", path)
    blocks = count(tensors, "down.0.block.", path)
    conv = partial(shape_of, tensors, kind="convolution", path=path)
    stem, head = conv("conv_in.weight"), conv("conv_out.weight")
    widths = [conv(f"down.{level}.block.0.conv1.weight")[0] for level in range(levels)]
    if widths[0] != stem[0]:
        cause = f"conv_in has {stem[0]} channels and the first level {widths[0]}"
        raise InputError(f"{path}: {cause}, which UNet2DModel cannot express", "only ch_mult = 1, ... can be read")
    down = [_has_attention(tensors, f"down.{level}", blocks, path) for level in range(levels)]
    up = [_has_attention(tensors, f"up.{level}", blocks + 1, path) for level in reversed(range(levels))]
    return {
        "in_channels": stem[1],
        "out_channels": head[0],
        "block_out_channels": widths,
        "layers_per_block": blocks,
        "down_block_types": ["AttnDownBlock2D" if attention else "DownBlock2D" for attention in down],
        "up_block_types": ["AttnUpBlock2D" if attention else "UpBlock2D" for attention in up],
        "attention_head_dim": None,
        "downsample_padding": 0,
        "flip_sin_to_cos": False,
        "freq_shift": 1,
        "norm_eps": 1e-6,
    }


def _matches(weights: Weights) -> bool:
    """Both prefixes together: autoencoders of the same school have `down.0.block.0`, but no time embedding."""
    return any(name.startswith("temb.dense.") for name in weights.tensors) and any(
        name.startswith("down.0.block.") for name in weights.tensors
    )


def _load(weights: Weights, resolution: int | None, _: Mapping[str, str]) -> Denoiser:
    path = str(weights.path)
    config = ddim_config(weights.tensors, path)
    notes = [_SCHEDULE_NOTE]
    size, reason = _resolution(config)
    if resolution is None:
        notes.append(f"resolution {size} assumed: {reason}; --resolution sets another")
    config = {"sample_size": resolution or size, **config}
    rename = partial(ddim_name, levels=len(config["block_out_channels"]))
    module = build_unet(config, weights.tensors, path, rename)
    shape = sample_shape(module, None, path)
    return Denoiser(
        module,
        with_variance(NoiseSchedule(variance_type="fixed_large", conventions=ERMONGROUP), module),
        shape,
        weights.source(_NAME, config, *notes),
    )


DDIM = Format(_NAME, _matches, _load)


def _resolution(config: Mapping[str, Any]) -> tuple[int, str]:
    """The resolution at which the published nets have this shape, and the reason to think so."""
    for level, kind in enumerate(config["down_block_types"]):
        if kind == "AttnDownBlock2D":
            return 16 << level, f"published nets attend at 16x16, here on level {level}"
    levels = len(config["block_out_channels"])
    return 4 << (levels - 1), "without attention, a lowest level of 4x4 as in the CIFAR-10 net"


def _has_attention(tensors: Mapping[str, Tensor], level: str, blocks: int, path: str) -> bool:
    prefix = f"{level}.attn."
    if not any(name.startswith(prefix) for name in tensors):
        return False
    if (attended := count(tensors, prefix, path)) != blocks:
        cause = f"{level} has {blocks} residual blocks but {attended} with attention"
        raise InputError(f"{path}: {cause}", "UNet2DModel has attention after all blocks of a level or after none")
    return True
