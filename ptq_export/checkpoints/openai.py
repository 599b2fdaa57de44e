"""State dicts of openai/improved-diffusion and openai/guided-diffusion, which share one scheme of tensor names.

The tensors tell the architecture (`openai_layout`), but not the attention heads, the order of the qkv rows, what is
predicted, or the noise schedule: where the architecture is a published one, its flags are taken, else those that go
with its outputs (`usual`). All of them are reported, and `--assume` sets others.
"""

from collections.abc import Mapping

import torch

from ptq_export.checkpoints.openai_flags import ASSUMABLE, Flags, with_assumptions
from ptq_export.checkpoints.openai_layout import Layout, read_layout
from ptq_export.checkpoints.openai_published import find_published, size_of_widths, usual
from ptq_export.checkpoints.openai_unet import build_openai, unet_config
from ptq_export.checkpoints.schedule import noise_schedule
from ptq_export.checkpoints.told import SCHEDULE_KEYS, assumption_notes
from ptq_export.checkpoints.unet import sample_shape
from ptq_export.checkpoints.weights import Format, Weights
from ptq_export.denoiser import Denoiser
from ptq_export.errors import InputError

__all__ = ["OPENAI", "openai_denoiser", "resolution_of"]

_NAME = "openai/improved-diffusion or guided-diffusion"
_TWO_READINGS = (2, 6, 8)
_VARIANCE_NOTE = "DDPM sampling assumes the variance fixed_large, the training scripts' default where it is not learned"


def _matches(weights: Weights) -> bool:
    return {"time_embed.0", "input_blocks.0.0"} <= {name.rpartition(".")[0] for name in weights.tensors}


def _load(weights: Weights, resolution: int | None, assume: Mapping[str, str]) -> Denoiser:
    path = str(weights.path)
    layout = read_layout(weights.tensors, path)
    notes = [*_half_precision(weights), *_unconditional(layout, assume, path)]
    published = find_published(layout)
    defaults, whose = (published.flags, published.files) if published else usual(layout)
    reason = f"the architecture is that of {whose}" if published else f"as in {whose}"
    told = assume
    if weights.scheduler:  # it tells the betas, but the time that the net sees is ours to scale
        told = {**assume, "timesteps": str(noise_schedule(weights.scheduler, path).num_train_timesteps)}
    flags = with_assumptions(defaults, told, layout, path)
    every = flags.as_assumptions()
    if weights.scheduler:
        every = {key: value for key, value in every.items() if key not in SCHEDULE_KEYS}
    notes += assumption_notes(every, assume, reason)
    if not layout.learned_variance:
        notes.append(_VARIANCE_NOTE)
    size, why = (published.resolution, f"that of {published.files}") if published else resolution_of(layout)
    if resolution is None:
        notes.append(f"resolution {size} assumed: {why}; --resolution sets another")
    return openai_denoiser(weights, layout, flags, resolution or size, notes)


OPENAI = Format(_NAME, _matches, _load, ASSUMABLE)


def openai_denoiser(weights: Weights, layout: Layout, flags: Flags, size: int, notes: list[str]) -> Denoiser:
    """The denoiser of `size` x `size` samples that has the tensors of `weights`, OpenAI's names and these flags."""
    path = str(weights.path)
    module = build_openai(layout, flags, size, weights.tensors, path)
    architecture = {**unet_config(layout, size), **flags.as_assumptions()}
    source = weights.source(_NAME, architecture, *notes)
    shape = sample_shape(module, None, path)
    return Denoiser(module, flags.schedule(layout.learned_variance), shape, source, layout.conditions)


def _unconditional(layout: Layout, assume: Mapping[str, str], path: str) -> list[str]:
    """Of N inputs and N outputs, N / 2 can be a condition beside the sample, and N / 2 the learned variance of eps.

    Raises:
        InputError: N is 2, 6 or 8, where people have both kinds, and the user has not told which it is.
    """
    channels, half = layout.in_channels, layout.in_channels // 2
    if layout.learned_variance or channels % 2:
        return []
    if "condition" in assume:
        return [f"condition=none given by --assume: all {channels} channels are the sample"]
    if channels not in _TWO_READINGS:
        other = f"{half} and a condition of {half}, with a learned variance, would look the same"
        return [f"condition=none assumed: all {channels} channels are the sample; {other}"]
    kinds = f"{channels} channels of a sample, or {half} and a condition of {half}, with a learned variance"
    cause = f"{path} has {channels} input and {channels} output channels: {kinds} (an upsampler's image, a mask)"
    raise InputError(
        f"{cause}; nets that see a condition are not supported", "if there is none, say --assume condition=none"
    )


def _half_precision(weights: Weights) -> list[str]:
    half = [name for name, tensor in weights.tensors.items() if tensor.dtype in (torch.float16, torch.bfloat16)]
    if not half:
        return []
    return [f"{len(half)} of the file's {len(weights.tensors)} tensors are 16-bit floats; the net computes in float32"]


def resolution_of(layout: Layout) -> tuple[int, str]:
    """The resolution at which most nets have this shape, and the reason to think so."""
    if size := size_of_widths(layout):
        return size, "the training scripts give its levels these widths"
    if not layout.attention:
        return 8 << (layout.levels - 1), "without attention, a lowest level of 8x8 as in most published nets"
    finest, level = 32 if layout.resblock_updown else 16, layout.attention[0]
    return finest << level, f"published nets attend at {finest}x{finest} first, here on level {level}"
