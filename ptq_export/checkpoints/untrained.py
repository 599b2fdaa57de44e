"""Nets of published sizes with random weights, for latency work: `random:ddim-cifar10`. Their images mean nothing."""

import torch
from diffusers import UNet2DModel

from ptq_export.checkpoints.fit import tensors_sha256
from ptq_export.checkpoints.unet import sample_shape
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source, UNetEps
from ptq_export.lookup import lookup

__all__ = ["UNTRAINED", "load_untrained"]

_SEED = 0
_LOUD = "RANDOM WEIGHTS: good for latency only; the images mean nothing, nor does any fidelity measured on them"
UNTRAINED = {
    "ddim-cifar10": {  # 35.7 M parameters: Ho et al. (2020), section 4 and appendix B
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
}


def load_untrained(name: str, resolution: int | None) -> Denoiser:
    """The net called `name`, drawn from a fixed seed; the global random generator stays as it is.

    Raises:
        InputError: no such net; the message offers the nearest.
    """
    config = lookup("random net", name, UNTRAINED)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        module = UNetEps(UNet2DModel(**config)).eval().requires_grad_(False)
    spec = f"random:{name}"
    sha256 = tensors_sha256(module.unet.state_dict())
    source = Source(spec, "random weights", sha256, None, (_LOUD,), config)
    return Denoiser(module, NoiseSchedule(), sample_shape(module, resolution, spec), source)
