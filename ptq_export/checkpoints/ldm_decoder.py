"""Latent diffusion's decoder (`ldm/modules/diffusionmodules/model.py`), by diffusers' `AutoencoderKL`."""

from collections.abc import Mapping

from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint
from torch import Tensor

from ptq_export.checkpoints.keys import count, shape_of
from ptq_export.checkpoints.latent_decoder import VaeDecoder, build_decoder
from ptq_export.errors import InputError

__all__ = ["read_ldm_decoder"]

_PARTS = ("decoder.", "post_quant_conv.")


def read_ldm_decoder(tensors: Mapping[str, Tensor], scale: float, path: str) -> VaeDecoder:
    """The decoder among the tensors of `first_stage_model`; latents are times `scale`.

    Raises:
        InputError: tensors are missing, or it is another kind of autoencoder.
    """
    own = {name: value for name, value in tensors.items() if name.startswith(_PARTS)}
    levels = count(own, "decoder.up.", path)
    names = [f"decoder.up.{level}.block.0.conv1.weight" for level in range(levels)]
    inner = shape_of(own, "decoder.conv_in.weight", "convolution", path)
    config = {
        "out_channels": shape_of(own, "decoder.conv_out.weight", "convolution", path)[0],
        "latent_channels": inner[1],
        "block_out_channels": [shape_of(own, name, "convolution", path)[0] for name in names],
        "layers_per_block": count(own, "decoder.up.0.block.", path) - 1,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "scaling_factor": scale,
    }
    attends = any(name.startswith("decoder.up.") and ".attn." in name for name in own)
    if attends or any(name.startswith("quantize.") for name in tensors):
        what = "has attention beside that in the middle" if attends else "quantises its latents (VQ)"
        cause = f"{path}: its autoencoder {what}, which AutoencoderKL cannot express"
        raise InputError(cause, "give a checkpoint with an autoencoder of Stable Diffusion's kind")
    try:
        found = convert_ldm_vae_checkpoint({f"first_stage_model.{name}": value for name, value in own.items()}, config)
    except Exception as error:  # diffusers answers KeyError, IndexError or worse where tensors are missing
        raise InputError(f"{path}: its autoencoder cannot be read: {error!r:.200}", "the file is incomplete") from error
    return build_decoder(config, {name: value for name, value in found.items() if value is not None}, path)
