"""Nets of published sizes with random weights, for latency work: `random:iddpm-cifar10`. Their images mean nothing."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import nn

from ptq_export.checkpoints.conditional_unet import ConditionalEps
from ptq_export.checkpoints.conventions import ERMONGROUP
from ptq_export.checkpoints.fit import tensors_sha256
from ptq_export.checkpoints.latent_denoiser import latent_denoiser
from ptq_export.checkpoints.openai_published import PUBLISHED, Published
from ptq_export.checkpoints.openai_unet import set_heads, unet_config
from ptq_export.checkpoints.text_to_image_sizes import SD15, SDXL, STABLE_DIFFUSION, TextToImage
from ptq_export.checkpoints.unet import sample_shape
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source, UNetEps
from ptq_export.lookup import lookup

__all__ = ["DDIM_CIFAR10", "UNTRAINED", "draw_published", "draw_text_to_image", "load_untrained"]

Net = TypeVar("Net", UNetEps, ConditionalEps)
_SEED = 0
_NORM_STD = 0.1
_SIZES = ("iddpm-cifar10", "iddpm-imagenet64", "adm-imagenet64", "adm-imagenet256")
_LOUD = "RANDOM WEIGHTS: good for latency only; the images mean nothing, nor does any fidelity measured on them"
DDIM_CIFAR10: dict[str, Any] = {  # 35.7 M parameters: Ho et al. (2020), section 4 and appendix B
    "sample_size": 32,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [128, 256, 256, 256],
    "layers_per_block": 2,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": None,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "norm_eps": 1e-6,
}


def load_untrained(name: str, resolution: int | None) -> Denoiser:
    """The net called `name`, drawn from a fixed seed; the global random generator stays as it is.

    Layers that OpenAI's code starts at zero are drawn like all others: a net that answers zero measures nothing.

    Raises:
        InputError: no such net; the message offers the nearest.
    """
    draw = lookup("random net", name, UNTRAINED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        return draw(f"random:{name}", resolution)


def _ddim_cifar10(spec: str, resolution: int | None) -> Denoiser:
    module = _drawn(UNetEps(UNet2DModel(**DDIM_CIFAR10)))
    return Denoiser(
        module,
        NoiseSchedule(variance_type="fixed_large", conventions=ERMONGROUP),
        sample_shape(module, resolution, spec),
        _source(spec, module, DDIM_CIFAR10),
    )


def draw_published(published: Published, spec: str, resolution: int | None) -> Denoiser:
    """52.5, 121.1, 295.9 and 553.8 M parameters: Nichol & Dhariwal (2021), Dhariwal & Nichol (2021)."""
    layout, flags = published.layout, published.flags
    config = unet_config(layout, published.resolution)
    module = _drawn(UNetEps(UNet2DModel(**config), flags.time_scale))
    set_heads(module, flags)
    shape = sample_shape(module, resolution, spec)
    source = _source(spec, module, {**config, **flags.as_assumptions()})
    return Denoiser(module, flags.schedule(layout.learned_variance), shape, source, layout.conditions)


def draw_text_to_image(net: TextToImage, spec: str, resolution: int | None) -> Denoiser:
    """Prompts are rows of normal numbers: there is neither a text encoder nor a decoder."""
    module = _drawn(ConditionalEps(UNet2DConditionModel(**net.config)))
    source = _source(spec, module, dict(net.config))
    return latent_denoiser(module, net.around, STABLE_DIFFUSION, resolution, source)


UNTRAINED: dict[str, Callable[[str, int | None], Denoiser]] = {
    "ddim-cifar10": _ddim_cifar10,
    **{name: partial(draw_published, PUBLISHED[name]) for name in _SIZES},
    **{name: partial(draw_text_to_image, net) for name, net in {"sd15": SD15, "sdxl": SDXL}.items()},
}


def _drawn(module: Net) -> Net:
    """The module, frozen, its norms with gains and offsets: those of ones and zeros would fold away in the graph."""
    for norm in module.modules():
        if isinstance(norm, nn.GroupNorm | nn.LayerNorm):
            nn.init.normal_(norm.weight, 1.0, _NORM_STD)
            nn.init.normal_(norm.bias, 0.0, _NORM_STD)
    return module.eval().requires_grad_(False)


def _source(spec: str, module: UNetEps | ConditionalEps, architecture: dict[str, Any]) -> Source:
    sha256 = tensors_sha256(module.unet.state_dict())
    return Source(spec, "random weights", sha256, None, (_LOUD,), architecture)
