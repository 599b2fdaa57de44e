"""State dicts of openai/improved-diffusion and openai/guided-diffusion, which share one scheme of tensor names.

The tensors tell the architecture (`openai_layout`), but not the attention heads, the order of the qkv rows, or the
noise schedule: where the architecture is a published one, its flags are taken, else those of most published nets. All
of them are reported, and `--assume` sets others.
"""

from collections.abc import Mapping

import torch

from ptq_export.checkpoints.openai_flags import ASSUMABLE, Flags, with_assumptions
from ptq_export.checkpoints.openai_layout import Layout, read_layout
from ptq_export.checkpoints.openai_published import Published, find_published, usual
from ptq_export.checkpoints.openai_unet import build_openai, unet_config
from ptq_export.checkpoints.unet import sample_shape
from ptq_export.checkpoints.weights import Format, Weights
from ptq_export.denoiser import Denoiser

__all__ = ["OPENAI"]

_NAME = "openai/improved-diffusion or guided-diffusion"
_VARIANCE_NOTE = "DDPM sampling assumes the variance fixed_large, the training scripts' default where it is not learned"


def _matches(weights: Weights) -> bool:
    return {"time_embed.0", "input_blocks.0.0"} <= {name.rpartition(".")[0] for name in weights.tensors}


def _load(weights: Weights, resolution: int | None, assume: Mapping[str, str]) -> Denoiser:
    path = str(weights.path)
    layout = read_layout(weights.tensors, path)
    published = find_published(layout)
    defaults, whose = (published.flags, published.files) if published else usual(layout)
    flags = with_assumptions(defaults, assume, layout, path)
    notes = [*_half_precision(weights), *_assumed(flags, assume, whose, published is not None)]
    if not layout.learned_variance:
        notes.append(_VARIANCE_NOTE)
    size, reason = _resolution(layout, published)
    if resolution is None:
        notes.append(f"resolution {size} assumed: {reason}; --resolution sets another")
    module = build_openai(layout, flags, resolution or size, weights.tensors, path)
    architecture = {**unet_config(layout, resolution or size), **flags.as_assumptions()}
    source = weights.source(_NAME, architecture, *notes)
    shape = sample_shape(module, None, path)
    return Denoiser(module, flags.schedule(layout.learned_variance), shape, source, layout.classes)


OPENAI = Format(_NAME, _matches, _load, ASSUMABLE)


def _half_precision(weights: Weights) -> list[str]:
    half = [name for name, tensor in weights.tensors.items() if tensor.dtype in (torch.float16, torch.bfloat16)]
    if not half:
        return []
    return [f"{len(half)} of the file's {len(weights.tensors)} tensors are 16-bit floats; the net computes in float32"]


def _assumed(flags: Flags, assume: Mapping[str, str], whose: str, is_published: bool) -> list[str]:
    """What was taken from the user, and what from elsewhere."""
    every = flags.as_assumptions()
    given, rest = (
        ", ".join(f"{key}={value}" for key, value in every.items() if (key in assume) is by_user)
        for by_user in (True, False)
    )
    reason = f"the architecture is that of {whose}" if is_published else f"as in {whose}"
    notes = [f"{given} given by --assume"] if given else []
    if rest:
        notes.append(f"{rest} assumed, which the tensors do not tell: {reason}; --assume KEY=VALUE sets another")
    return notes


def _resolution(layout: Layout, published: Published | None) -> tuple[int, str]:
    """The resolution at which the published nets have this shape, and the reason to think so."""
    if published:
        return published.resolution, f"that of {published.files}"
    if not layout.attention:
        return 8 << (layout.levels - 1), "without attention, a lowest level of 8x8 as in most published nets"
    finest, level = 32 if layout.resblock_updown else 16, layout.attention[0]
    return finest << level, f"published nets attend at {finest}x{finest} first, here on level {level}"
