"""A net of latents with what a pipeline has around it, as a denoiser: its inputs, their sizes, and examples of them."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from ptq_export.checkpoints.bounds import require_memory
from ptq_export.checkpoints.conditional_unet import ConditionalEps, conditions_of, images_of
from ptq_export.checkpoints.latent_decoder import VaeDecoder
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.errors import InputError
from ptq_export.interface import Input
from ptq_export.text import Text
from ptq_export.text_to_image import MASK, POOLED, SCALE, SIZES

__all__ = ["Around", "guidance_embedding", "latent_denoiser"]

_LATENTS = 64
_DRAWN = 8
_AESTHETICS = 6.0
_EMBEDDED_SCALE = 8.5
_SCALE_OF_SD, _SCALE_OF_SDXL = 7.5, 5.0
"""The defaults of diffusers' pipelines: of SDXL's refiner, of LCM, of both."""


@dataclass(frozen=True)
class Around:
    """What a pipeline has around its net.

    Attributes:
        channels: Of the latents.
        factor: How many times an image is as high as its latents.
        tokens: Of a prompt.
        pooled: How many numbers a prompt is as a whole, if the text encoder says so.
    """

    channels: int
    factor: int
    tokens: int
    pooled: int | None = None
    text: Text | None = None
    decoder: VaeDecoder | None = None


def latent_denoiser(
    module: ConditionalEps, around: Around, schedule: NoiseSchedule, resolution: int | None, source: Source
) -> Denoiser:
    """The denoiser of latents; `resolution` counts pixels of the images.

    Prompts are those of `around.text`, an empty one as example; without it examples are drawn, as all images are.

    Raises:
        InputError: latents, images or prompts that the net does not take, or a size that it cannot have.
    """
    config, path = cast(Mapping[str, Any], module.unet.config), source.spec
    size, notes = _size(config, around.factor, resolution, path)
    conditions = (
        *conditions_of(config, around.tokens, around.pooled, path),
        *images_of(config, around.channels, size, path),
    )
    examples, drawn = _examples(conditions, around, size)
    text = around.text and replace(around.text, scale=_scale(examples))
    if schedule.clip_sample:
        schedule = replace(schedule, clip_sample=False)
        notes.append("clip_sample of the scheduler's configuration is not followed: latents have no range")
    return Denoiser(
        module,
        schedule,
        (around.channels, *size),
        replace(source, notes=(*source.notes, *notes, *drawn)),
        conditions,
        examples,
        around.decoder,
        text,
    )


def guidance_embedding(scale: float, width: int) -> Tensor:
    """`timestep_cond` `[1, width]` of a guidance `scale`, as diffusers' LCM pipeline makes it: the sines and cosines of
    1000 (scale - 1) (Luo et al., arXiv:2310.04378)."""
    half = width // 2
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32) * -(torch.log(torch.tensor(1e4)) / (half - 1)))
    angles = torch.tensor([[(scale - 1) * 1000.0]]) * frequencies
    return torch.nn.functional.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, width % 2))


def _size(
    config: Mapping[str, Any], factor: int, resolution: int | None, path: str
) -> tuple[tuple[int, int], list[str]]:
    """Height and width of the latents, and what is to be said of them."""
    step = 2 ** (len(config["block_out_channels"]) - 1)
    asked: Any = config["sample_size"] if resolution is None else resolution / factor
    notes = []
    if asked is None:
        asked = _LATENTS
        notes.append(f"latents of {_LATENTS} assumed, for config.json has no sample_size")
    sides = tuple(asked) if isinstance(asked, list | tuple) else (asked, asked)
    if len(sides) != 2 or not all(isinstance(side, int | float) and side > 0 and side % step == 0 for side in sides):
        cause = f"{path}: latents have 1/{factor} of an image's size, and the net halves them down to 1/{step}"
        shown = f"an image of {resolution}" if resolution is not None else f"a sample_size of {asked}"
        raise InputError(f"{cause}, which {shown} does not allow", f"give --resolution, a multiple of {factor * step}")
    height, width = (int(side) for side in sides)
    require_memory(config["block_out_channels"][0] * height * width, path)
    pixels = f"{height * factor}x{width * factor}"
    notes.append(f"images of {pixels}, latents of {height}x{width}; --resolution sets another size, in pixels")
    return (height, width), notes


def _examples(
    conditions: tuple[Input, ...], around: Around, size: tuple[int, int]
) -> tuple[dict[str, Tensor], list[str]]:
    """As many rows of every condition that is no label, and what is to be said of them."""
    found = around.text.encode([""]) if around.text else {}
    generator, notes = torch.Generator().manual_seed(0), []
    for each in conditions:
        if each.name == SIZES:
            height, width = (float(side * around.factor) for side in size)
            behind = [height, width] if each.shape == (6,) else [_AESTHETICS]
            found[SIZES] = torch.tensor([[height, width, 0.0, 0.0, *behind]])
        elif each.name == SCALE:
            found[SCALE] = guidance_embedding(_EMBEDDED_SCALE, int(each.shape[0]))
            notes.append(f"{SCALE} is that of guidance {_EMBEDDED_SCALE:g}, as in diffusers' pipeline")
        elif each.limit is None and each.name not in found:
            found[each.name] = _drawn(each, generator)
            notes.append(f"examples of {each.name} are drawn: they are none that the net was trained with")
    rows = max(map(len, found.values()))
    return {name: value[torch.arange(rows) % len(value)] for name, value in found.items()}, notes


def _drawn(wanted: Input, generator: torch.Generator) -> Tensor:
    """Rows of normal numbers; of a mask, those of rectangles."""
    shape = [_DRAWN, *(size for size in wanted.shape if isinstance(size, int))]
    if wanted.name != MASK:
        return torch.randn(shape, generator=generator)
    *_, height, width = shape
    ends = (torch.rand(_DRAWN, 2, 2, generator=generator) + torch.tensor([0.0, 1.0])) / 2  # around the middle
    inside = [
        (ends[:, axis, :1] <= at) & (at <= ends[:, axis, 1:])
        for axis, at in enumerate((torch.linspace(0, 1, height), torch.linspace(0, 1, width)))
    ]
    return (inside[0][:, None, :, None] & inside[1][:, None, None, :]).float()


def _scale(conditions: Collection[str]) -> float:
    """The guidance under which nets of these conditions are sampled; 1 for none beside the one that they are told."""
    if SCALE in conditions:
        return 1.0
    return _SCALE_OF_SDXL if POOLED in conditions else _SCALE_OF_SD
