"""`random:` nets: the published size, seeded, loud about it, and not degenerate."""

import pytest
import torch

from ptq_export.checkpoints import load_checkpoint
from ptq_export.checkpoints.fit import tensors_sha256
from ptq_export.denoiser import Denoiser
from ptq_export.errors import InputError


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return load_checkpoint("random:ddim-cifar10")


def test_ddim_cifar10_has_its_published_size(denoiser: Denoiser) -> None:
    assert sum(parameter.numel() for parameter in denoiser.module.parameters()) == 35_746_307
    assert denoiser.sample_shape == (3, 32, 32)


def test_random_weights_say_loudly_that_images_mean_nothing(denoiser: Denoiser) -> None:
    assert denoiser.source.format == "random weights"
    assert any(note.startswith("RANDOM WEIGHTS") and "mean nothing" in note for note in denoiser.source.notes)


@pytest.mark.parametrize("timestep", [0, 999])
def test_random_net_is_not_degenerate(timestep: int, denoiser: Denoiser) -> None:
    sample = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    assert 0.1 < denoiser(sample, torch.tensor([timestep])).std() < 10


def test_random_net_is_seeded_and_leaves_the_global_generator_alone(denoiser: Denoiser) -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = load_checkpoint("random:ddim-cifar10")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.source.sha256 == denoiser.source.sha256
    assert again.source.sha256 == tensors_sha256(again.module.unet.state_dict())


@pytest.mark.parametrize("name", ["cifar", "ddim-cifar", "ddpm-cifar10"])
def test_unknown_random_name_offers_the_nearest(name: str) -> None:
    with pytest.raises(InputError, match="did you mean ddim-cifar10"):
        load_checkpoint(f"random:{name}")


def test_resolution_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="not positive"):
        load_checkpoint("random:ddim-cifar10", resolution=0)
