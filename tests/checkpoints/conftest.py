"""Tiny nets and folders for the checkpoint tests."""

from pathlib import Path
from typing import Any

import pytest
import torch
from ddim_reference import State, random_state
from diffusers import DDPMScheduler, UNet2DModel

GOLDEN = Path(__file__).parents[1] / "data"

TINY_UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 1,
    "out_channels": 1,
    "block_out_channels": [32, 32],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of the golden checkpoint and its inputs and output."""
    return GOLDEN


@pytest.fixture
def unet_config() -> dict[str, Any]:
    """The keyword arguments of `unet`."""
    return dict(TINY_UNET)


@pytest.fixture
def ddim_state() -> State:
    """A ddim state dict of two levels with one block each, attention on the second."""
    return random_state([32, 32], 1, {1}, colours=1)


@pytest.fixture
def unet() -> UNet2DModel:
    """A tiny grey UNet2DModel with seeded weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DModel(**TINY_UNET).eval()


@pytest.fixture
def folder(tmp_path: Path, unet: UNet2DModel) -> Path:
    """A pipeline's folder, with `unet/` and `scheduler/`, as diffusers saves it."""
    unet.save_pretrained(tmp_path / "pipeline" / "unet")
    DDPMScheduler(num_train_timesteps=500, beta_schedule="squaredcos_cap_v2").save_pretrained(
        tmp_path / "pipeline" / "scheduler"
    )
    return tmp_path / "pipeline"
