"""The published OpenAI nets: known again by their architecture, of their published size, with their noise schedules."""

import math

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from openai_reference import tensor_shapes

from ptq_export.checkpoints.openai_flags import Flags
from ptq_export.checkpoints.openai_layout import read_layout
from ptq_export.checkpoints.openai_names import openai_name
from ptq_export.checkpoints.openai_published import PUBLISHED, find_published
from ptq_export.checkpoints.openai_unet import unet_config
from ptq_export.schedulers import make_scheduler

MILLIONS = {  # Dhariwal & Nichol (2021) print 296, 422, 554, 552, 559; the older files are called 50M, 100M, 270M
    "iddpm-cifar10": 52.5,
    "iddpm-imagenet64": 121.1,
    "iddpm-imagenet64-cond": 273.0,
    "iddpm-lsun256": 113.7,
    "adm-imagenet64": 295.9,
    "adm-imagenet128": 421.5,
    "adm-imagenet256": 553.8,
    "adm-256-uncond": 552.8,
    "dps-ffhq256": 93.6,
    "adm-imagenet512": 559.0,
}
every_net = pytest.mark.parametrize("name", PUBLISHED)


@every_net
def test_architecture_is_inferred_from_full_size_keys(name: str) -> None:
    tensors = {key: torch.empty(shape, device="meta") for key, shape in tensor_shapes(PUBLISHED[name].layout).items()}
    layout = read_layout(tensors, name)
    assert layout == PUBLISHED[name].layout
    assert find_published(layout) is PUBLISHED[name]


@every_net
def test_unet_has_the_tensors_of_the_file(name: str) -> None:
    layout = PUBLISHED[name].layout
    with torch.device("meta"):
        unet = UNet2DModel(**unet_config(layout, PUBLISHED[name].resolution))
    found = {openai_name(key, layout): tuple(tensor.shape) for key, tensor in unet.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {}
    for key, shape in tensor_shapes(layout).items():
        if ".qkv." in key:
            expected |= {f"{key}[{part}]": (shape[0] // 3, *shape[1:2]) for part in "qkv"}
        else:
            expected[key] = shape[:2] if len(shape) == 3 else shape
    expected["time_embed.0.weight"] = (4 * layout.time_width, layout.widths[0])  # widened afterwards, for one of them
    assert found == expected


@every_net
def test_size_is_the_published_one(name: str) -> None:
    total = sum(math.prod(shape) for shape in tensor_shapes(PUBLISHED[name].layout).values()) / 1e6
    assert round(total, 1) == MILLIONS[name]


@every_net
def test_flags_divide_every_attention(name: str) -> None:
    layout, flags = PUBLISHED[name].layout, PUBLISHED[name].flags
    assert all(flags.heads_over(width) >= 1 for width in layout.attention_widths)


def test_heads_of_the_published_nets() -> None:
    assert PUBLISHED["iddpm-cifar10"].flags.heads_over(256) == 4
    assert PUBLISHED["adm-imagenet64"].flags.heads_over(768) == 12
    assert PUBLISHED["adm-imagenet128"].flags.heads_over(1024) == 4


@pytest.mark.parametrize("steps", [1000, 4000])
def test_cosine_betas_are_those_of_the_paper(steps: int) -> None:
    """Nichol & Dhariwal (2021), equation 17: alpha_bar = cos^2, s = 0.008, betas clipped at 0.999."""
    alpha_bar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * np.pi / 2) ** 2
    expected = np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)
    scheduler = make_scheduler(Flags(betas="cosine", timesteps=steps).schedule(learned_variance=True))
    assert np.allclose(scheduler.betas.numpy(), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("steps", [1000, 4000])
def test_linear_betas_are_scaled_to_the_length(steps: int) -> None:
    expected = np.linspace(1e-4 * 1000 / steps, 0.02 * 1000 / steps, steps)
    scheduler = make_scheduler(Flags(betas="linear", timesteps=steps).schedule(learned_variance=True))
    assert np.allclose(scheduler.betas.numpy(), expected, rtol=1e-5, atol=0)
