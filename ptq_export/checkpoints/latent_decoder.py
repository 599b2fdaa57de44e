"""The decoder of an autoencoder: from latents, as the denoiser has them, to images in [-1, 1]."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

from ptq_export.checkpoints.bounds import require_enough_layers
from ptq_export.checkpoints.fit import fit
from ptq_export.checkpoints.unet import known_keys, lay_out, names_in
from ptq_export.errors import InputError

__all__ = ["VaeDecoder", "build_decoder"]

_KINDS = (AutoencoderKL, AutoencoderTiny)
_UNREAD = ("encoder.", "quant_conv.")
_LEVELS = ("block_out_channels", "decoder_block_out_channels")


class VaeDecoder(nn.Module):
    """diffusers' `AutoencoderKL` or `AutoencoderTiny` without its encoder; latents times `deviation` plus `mean` are
    what it was trained with.

    `factor` is how many times an image is as high as its latents, `channels` what those have.
    """

    vae: Any
    deviation: Tensor
    mean: Tensor

    def __init__(self, vae: Any, deviation: Tensor, mean: Tensor) -> None:
        super().__init__()
        self.vae = vae
        self.register_buffer("deviation", deviation, persistent=False)
        self.register_buffer("mean", mean, persistent=False)
        config = vae.config
        self.factor = config.get("upsampling_scaling_factor", 2) ** (len(config["block_out_channels"]) - 1)
        self.channels = int(config["latent_channels"])

    def forward(self, latents: Tensor) -> Tensor:
        """Images `[N, 3, H, W]` of `latents` `[N, C, h, w]`."""
        images: Tensor = self.vae.decode(latents * self.deviation + self.mean, return_dict=False)[0]
        return images


def build_decoder(config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str) -> VaeDecoder:
    """The decoder of the autoencoder of `config` with the tensors of `path`, of which those of the encoder are not
    read.

    Raises:
        InputError: another kind of autoencoder, or the tensors do not fit it.
    """
    told = config.get("_class_name", AutoencoderKL.__name__)
    kind = next((each for each in _KINDS if each.__name__ == told), None)
    if kind is None:
        known = ", ".join(each.__name__ for each in _KINDS)
        raise InputError(f"{path}: a decoder of latents {told!r:.60} is not supported", f"known: {known}")
    require_enough_layers(_layers(config), tensors, path)
    plain, _ = known_keys(config, kind)
    vae: Any = lay_out(kind.__name__, lambda: kind(**plain), path)
    vae.encoder = vae.quant_conv = None
    own = {name: value for name, value in tensors.items() if not name.startswith(_UNREAD)}
    fit(vae, own, path, names_in(own))
    decoder = VaeDecoder(vae, *_scales(vae.config, path))
    return decoder.eval().requires_grad_(False)


def _layers(config: Mapping[str, Any]) -> int:
    """Of the decoder, at least."""
    widths = next((config[key] for key in _LEVELS if isinstance(config.get(key), list | tuple)), ())
    per_level, counts = config.get("layers_per_block", 1), config.get("num_decoder_blocks", ())
    tiny = sum(count for count in counts if isinstance(count, int)) if isinstance(counts, list | tuple) else 0
    return max(tiny, len(widths) * per_level if isinstance(per_level, int) else 0)


def _scales(config: Mapping[str, Any], path: str) -> tuple[Tensor, Tensor]:
    """What latents are multiplied by, and what is added then: numbers, or one per channel `[1, C, 1, 1]`."""
    factor, shift = config["scaling_factor"], config.get("shift_factor") or 0.0
    rows = [config.get("latents_std") or 1.0, config.get("latents_mean") or shift]
    damaged = f"{path}: its configuration does not tell how latents are scaled"
    try:
        deviation, mean = (torch.tensor(row, dtype=torch.float32) for row in rows)
        scales = [deviation / float(factor), mean]
        found = [row if row.dim() == 0 else row.reshape(1, config["latent_channels"], 1, 1) for row in scales]
    except (TypeError, ValueError, RuntimeError, ZeroDivisionError) as error:
        raise InputError(damaged, "copy its config.json again") from error
    if not all(row.isfinite().all() for row in found):
        raise InputError(damaged, "copy its config.json again")
    return found[0], found[1]
