"""`random:` nets: the published size, seeded, loud about it, and not degenerate."""

from dataclasses import replace

import pytest
import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import nn

from ptq_export.checkpoints import load_checkpoint
from ptq_export.checkpoints.conditional_unet import ConditionalEps
from ptq_export.checkpoints.fit import tensors_sha256
from ptq_export.checkpoints.latent_denoiser import latent_denoiser
from ptq_export.checkpoints.text_to_image_sizes import SD15, SDXL, STABLE_DIFFUSION
from ptq_export.checkpoints.untrained import UNTRAINED, draw_text_to_image
from ptq_export.denoiser import Denoiser, Source
from ptq_export.errors import InputError

NETS = {  # parameters, sample, output channels, classes, heads over the widest attention, what the net sees of t = 1
    "ddim-cifar10": (35_746_307, (3, 32, 32), 3, None, 1, 1),
    "iddpm-cifar10": (52_546_438, (3, 32, 32), 6, None, 4, 0.25),
    "iddpm-imagenet64": (121_063_942, (3, 64, 64), 6, None, 4, 0.25),
    "adm-imagenet64": (295_904_454, (3, 64, 64), 6, 1000, 12, 1),
    "adm-imagenet256": (553_838_086, (3, 256, 256), 6, 1000, 16, 1),
}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=[pytest.mark.slow] if name.startswith("adm") else []) for name in NETS],
)
def denoiser(request: pytest.FixtureRequest) -> Denoiser:
    return load_checkpoint(f"random:{request.param}")


def _name(denoiser: Denoiser) -> str:
    return denoiser.source.spec.removeprefix("random:")


LATENT_NETS = {  # parameters, latents, conditions
    "sd15": (SD15, 859_520_964, (4, 64, 64), {"encoder_hidden_states": (77, 768)}),
    "sdxl": (
        SDXL,
        2_567_463_684,
        (4, 128, 128),
        {"encoder_hidden_states": (77, 2048), "text_embeds": (1280,), "time_ids": (6,)},
    ),
}


def test_every_random_net_is_tested() -> None:
    assert set(UNTRAINED) == set(NETS) | set(LATENT_NETS)


@pytest.mark.parametrize("name", LATENT_NETS)
def test_random_net_of_latents_has_its_published_size(name: str) -> None:
    """Laid out without memory: they are 3.4 and 10.3 GB."""
    net, parameters, shape, conditions = LATENT_NETS[name]
    with torch.device("meta"):
        unet = UNet2DConditionModel(**net.config)
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters
    source = Source(name, "", "")
    denoiser = latent_denoiser(ConditionalEps(unet), net.around, STABLE_DIFFUSION, None, source)
    assert denoiser.sample_shape == shape
    assert {each.name: each.shape for each in denoiser.conditions} == conditions
    half = latent_denoiser(ConditionalEps(unet), net.around, STABLE_DIFFUSION, 256, source)
    assert half.sample_shape == (4, 32, 32)


@pytest.mark.parametrize("name", LATENT_NETS)
def test_random_net_of_latents_is_not_degenerate(name: str) -> None:
    """A narrow one of the same layers."""
    net = LATENT_NETS[name][0]
    narrow = {"block_out_channels": [32] * len(net.config["block_out_channels"]), "attention_head_dim": 4}
    few = {"transformer_layers_per_block": 1, "layers_per_block": 1}
    denoiser = draw_text_to_image(replace(net, config={**net.config, **narrow, **few}), f"random:{name}", 128)
    output = denoiser(torch.randn(2, 4, 16, 16), torch.tensor([0, 999]), **denoiser.draw(2, seed=0))
    assert output.shape == (2, 4, 16, 16)
    assert 0.1 < output.std() < 10
    assert (denoiser.text, denoiser.decoder) == (None, None)
    assert denoiser.source.notes[0].startswith("RANDOM WEIGHTS")
    norms = [module for module in denoiser.module.modules() if isinstance(module, nn.LayerNorm)]
    assert norms
    assert all(0.05 < norm.weight.std() < 0.2 for norm in norms)


def test_random_net_has_its_published_size(denoiser: Denoiser) -> None:
    parameters, shape, _, classes, heads, seen = NETS[_name(denoiser)]
    assert sum(parameter.numel() for parameter in denoiser.module.parameters()) == parameters
    assert (denoiser.sample_shape, denoiser.classes) == (shape, classes)
    assert denoiser.module.time_scale == seen
    attentions = [module for module in denoiser.module.modules() if isinstance(module, Attention)]
    assert max(attentions, key=lambda attention: attention.inner_dim).heads == heads


def test_random_weights_say_loudly_that_images_mean_nothing(denoiser: Denoiser) -> None:
    assert denoiser.source.format == "random weights"
    assert any(note.startswith("RANDOM WEIGHTS") and "mean nothing" in note for note in denoiser.source.notes)


def test_no_weight_of_a_random_net_is_zero(denoiser: Denoiser) -> None:
    weights = {name: tensor for name, tensor in denoiser.module.named_parameters() if name.endswith("weight")}
    assert min(float(tensor.abs().max()) for tensor in weights.values()) > 1e-3


@pytest.mark.parametrize("timestep", [0, 999])
def test_random_net_is_not_degenerate(timestep: int, denoiser: Denoiser) -> None:
    shape = [min(size, 64) for size in denoiser.sample_shape]  # nets of 256 pixels take minutes
    sample = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    output = denoiser(sample, torch.tensor([timestep]), **denoiser.draw(1, seed=0))
    assert output.shape == (1, NETS[_name(denoiser)][2], *shape[1:])
    assert all(0.1 < half.std() < 10 for half in output.split(denoiser.sample_shape[0], dim=1))


@pytest.mark.parametrize("name", ["ddim-cifar10", "iddpm-cifar10"])
def test_random_net_is_seeded_and_leaves_the_global_generator_alone(name: str) -> None:
    first = load_checkpoint(f"random:{name}")
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    again = load_checkpoint(f"random:{name}")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.source.sha256 == first.source.sha256
    assert again.source.sha256 == tensors_sha256(again.module.unet.state_dict())


@pytest.mark.parametrize(
    ("name", "near"), [("cifar", "ddim-cifar10"), ("ddim-cifar", "ddim-cifar10"), ("adm-64", "adm-imagenet64")]
)
def test_unknown_random_name_offers_the_nearest(name: str, near: str) -> None:
    with pytest.raises(InputError, match=f"did you mean {near}"):
        load_checkpoint(f"random:{name}")


def test_resolution_below_one_is_refused() -> None:
    with pytest.raises(InputError, match="not positive"):
        load_checkpoint("random:ddim-cifar10", resolution=0)


def test_random_norms_do_not_fold_away(denoiser: Denoiser) -> None:
    norms = [module for module in denoiser.module.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) > 40
    assert all(0.05 < norm.weight.std() < 0.2 and 0.05 < norm.bias.std() < 0.2 for norm in norms)
