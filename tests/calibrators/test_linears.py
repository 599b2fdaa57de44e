"""What is chosen for the inputs of linears: by their results' noise, in the target's scheme."""

from dataclasses import replace

import pytest
import torch
from calibrators_toys import denoiser_of, memory_store, random_pairs, sqnr_db
from torch import nn
from transformer import WIDTH, Around, transformer

from ptq_export.calibrators.linears import BALANCED, TOKEN, LinearChoice, choose_linears
from ptq_export.calibrators.quantise import Method, quantise
from ptq_export.calibrators.sites import find_sites, with_tokens
from ptq_export.denoiser import Denoiser
from ptq_export.nn.balance import balance
from ptq_export.nn.layers import TokenLinear
from ptq_export.nn.scheme import OPENVINO, ORT_CPU, TENSORRT, Scheme

SCHEMES = pytest.mark.parametrize("scheme", [ORT_CPU, OPENVINO, TENSORRT], ids=lambda scheme: scheme.name)


def chosen(denoiser: Denoiser, scheme: Scheme) -> list[LinearChoice]:
    return choose_linears(denoiser, find_sites(denoiser, scheme), random_pairs(denoiser, 16), scheme, "l2.4", 0)


def simulated_db(denoiser: Denoiser, choices: list[LinearChoice], scheme: Scheme, tokens: set[str]) -> float:
    """SQNR of the network with its int8 linears, and float convolutions, under these choices."""
    subject = balance(denoiser, {it.reading: it.gains for it in choices if it.gains is not None})
    sites = with_tokens(find_sites(subject, scheme), tokens)
    pairs = random_pairs(denoiser, 16)
    method = Method(scheme, "l2.4", None, 0)
    model = quantise(subject, sites, pairs, method, memory_store({}), lambda _: None)
    assert {name for name, layer in model.named_modules() if isinstance(layer, TokenLinear)} == tokens
    return sqnr_db(pairs.through(denoiser), pairs.through(model))


@SCHEMES
def test_outlier_channels_are_balanced_and_the_network_gains_by_it(scheme: Scheme) -> None:
    denoiser = transformer(outliers=30.0)
    choices = chosen(denoiser, scheme)
    behind_norms = [it for it in choices if "norm" in it.reading.source]
    assert len(behind_norms) == 2 and all(it.alpha is not None and it.gains[3] > 2 for it in behind_norms)
    assert all(it.noise["balanced"] < 0.2 * it.noise["tensor"] for it in behind_norms)
    plain = [replace(it, gains=None) for it in choices]
    assert simulated_db(denoiser, choices, scheme, set()) > simulated_db(denoiser, plain, scheme, set()) + 5


def test_a_channel_that_is_all_but_dead_asks_for_no_gain_that_float16_cannot_hold() -> None:
    denoiser = transformer()
    with torch.no_grad():
        denoiser.module.block.norm3.weight[5], denoiser.module.block.norm3.bias[5] = 1e-12, 0.0
    gains = [choice.gains for choice in chosen(denoiser, TENSORRT) if choice.gains is not None]
    assert gains and all(gain.min() >= 1 / 256 and gain.max() <= 256 for gain in gains)


def test_gains_that_do_not_pay_are_not_taken() -> None:
    denoiser = transformer()
    for choice in chosen(denoiser, ORT_CPU):
        assert (choice.alpha is not None) == (choice.noise["balanced"] <= BALANCED * choice.noise["tensor"])
        assert (choice.gains is None) == (choice.alpha is None)


def test_a_step_per_token_is_proposed_where_tokens_are_outliers() -> None:
    torch.manual_seed(0)
    denoiser = denoiser_of(Around(nn.Linear(WIDTH, WIDTH)), (2, 6, 6))
    pairs = random_pairs(denoiser, 16)
    pairs.timestep.fill_(500)
    pairs.sample.mul_(0.01)  # all tokens have one size, that of a bias
    assert not choose_linears(denoiser, find_sites(denoiser, ORT_CPU), pairs, ORT_CPU, "l2.4", 0)[0].by_token
    pairs.sample[..., 0, 0].mul_(10_000)
    (choice,) = choose_linears(denoiser, find_sites(denoiser, ORT_CPU), pairs, ORT_CPU, "l2.4", 0)
    assert choice.by_token and choice.noise["token"] <= TOKEN * choice.noise["tensor"]
    assert choice.reading.source == "" and choice.gains is None


def test_a_site_with_a_step_per_token_is_quantised_so() -> None:
    denoiser = transformer(outliers=30.0)
    assert simulated_db(denoiser, [], ORT_CPU, {"block.ff.net.2"}) > 0
