"""Weights that are computed from constants are baked where the layer is proved to be one plain layer."""

import copy

import pytest
import torch
from computed_weights import CHANNELS, LAYERS, Gained, Standardised, net_of
from torch import nn

from ptq_export.nn.bake import bake_weights, is_plain
from ptq_export.nn.probe import difference, probe


@pytest.mark.parametrize("kind", LAYERS)
def test_baking_keeps_the_function(kind: str) -> None:
    denoiser = net_of(LAYERS[kind])
    wanted = probe(denoiser).through(denoiser)
    baked = bake_weights(denoiser)
    assert difference(wanted, probe(denoiser).through(baked)) < 1e-5
    layers = {name: layer for name, layer in baked.module.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    left = [name for name, layer in layers.items() if not is_plain(layer)]
    assert left == (["layer"] if kind == "own square" else []) and len(layers) == 5


def test_a_standardised_weight_is_the_published_formula() -> None:
    denoiser = net_of(LAYERS["standardised"])
    baked = bake_weights(denoiser).module.get_submodule("layer")
    weight = denoiser.module.get_submodule("layer").weight
    variance, mean = torch.var_mean(weight, (1, 2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(baked.weight, (weight - mean) / (variance + 1e-5).sqrt(), rtol=1e-5, atol=1e-5)


def test_the_denoiser_that_is_baked_is_not_changed_and_a_plain_one_is_itself() -> None:
    denoiser = net_of(LAYERS["standardised"])
    before = copy.deepcopy(denoiser.module.state_dict())
    bake_weights(denoiser)
    assert isinstance(denoiser.module.get_submodule("layer"), Standardised)
    assert all(torch.equal(value, before[name]) for name, value in denoiser.module.state_dict().items())
    plain = net_of(lambda: nn.Conv2d(CHANNELS, CHANNELS, 1), lambda: nn.Linear(CHANNELS, CHANNELS))
    assert bake_weights(plain) is plain


def test_the_call_s_own_options_decide_what_is_baked() -> None:
    """Called with another gain than its default, the layer is not what it is alone: nothing is baked."""
    denoiser = net_of(lambda: Gained(6, 6), call=lambda layer, x: layer(rows=x, gain=3.0))
    baked = bake_weights(denoiser)
    assert isinstance(baked.module.get_submodule("layer"), Gained)
    assert not isinstance(baked.module.get_submodule("rows"), Gained)


def test_a_shared_layer_is_baked_in_all_its_places() -> None:
    denoiser = net_of(LAYERS["standardised"])
    denoiser.module.register_module("again", denoiser.module.get_submodule("layer"))
    baked = bake_weights(denoiser).module
    assert baked.get_submodule("again") is baked.get_submodule("layer") and is_plain(baked.get_submodule("again"))
