"""Gains moved from what stands before into what reads: the same function, the given network untouched."""

import torch
from torch import nn
from two_levels import two_levels

from ptq_export.nn.balance import Reading, balance, channels_of
from ptq_export.nn.probe import probe

ATTENTION = "unet.mid_block.attentions.0"


def test_no_gains_are_the_network_itself() -> None:
    denoiser = two_levels()
    assert balance(denoiser, {}) is denoiser


def test_gains_change_weights_and_not_the_function() -> None:
    denoiser = two_levels()
    attention = denoiser.module.get_submodule(ATTENTION)
    generator = torch.Generator().manual_seed(0)
    gains = torch.rand(len(attention.to_v.weight), generator=generator) * 50 + 0.1
    readers = tuple(f"{ATTENTION}.to_{name}" for name in "qkv")
    before = attention.to_v.weight.clone()
    after = balance(
        denoiser,
        {
            Reading(readers, f"{ATTENTION}.group_norm"): gains,
            Reading((f"{ATTENTION}.to_out.0",), f"{ATTENTION}.to_v"): 1 / gains,
        },
    )
    moved = after.module.get_submodule(ATTENTION)
    torch.testing.assert_close(moved.group_norm.weight, attention.group_norm.weight / gains)
    torch.testing.assert_close(moved.to_v.weight, before * gains * gains[:, None])
    torch.testing.assert_close(moved.to_out[0].weight, attention.to_out[0].weight / gains)
    assert torch.equal(attention.to_v.weight, before)
    pairs = probe(denoiser)
    torch.testing.assert_close(pairs.through(after), pairs.through(denoiser), atol=1e-5, rtol=1e-5)


def test_the_other_half_of_a_gated_unit_stays() -> None:
    module = nn.ModuleDict({"up": nn.Linear(3, 8), "down": nn.Linear(4, 2)})
    denoiser = two_levels()
    after = balance(
        type(denoiser)(module, denoiser.schedule, (1, 8, 8), denoiser.source),
        {Reading(("down",), "up", 4): torch.full((4,), 2.0)},
    ).module
    assert torch.equal(after.get_submodule("up").weight[:4], module["up"].weight[:4])
    assert torch.equal(after.get_submodule("up").bias[4:], module["up"].bias[4:] / 2)
    assert torch.equal(after.get_submodule("down").weight, module["down"].weight * 2)


def test_norms_without_an_affine_have_no_channels_to_divide() -> None:
    assert channels_of(nn.LayerNorm(6)) == channels_of(nn.GroupNorm(2, 6)) == channels_of(nn.Linear(2, 6)) == 6
    assert channels_of(nn.RMSNorm(6)) == channels_of(nn.Conv2d(2, 6, 1, bias=False)) == 6
    assert channels_of(nn.LayerNorm(6, elementwise_affine=False)) == channels_of(nn.SiLU()) == 0
    assert channels_of(nn.Sequential(nn.Linear(2, 6))) == channels_of(nn.MultiheadAttention(6, 2)) == 0
