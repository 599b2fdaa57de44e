"""Grids that are no layer's input: their scales come from what goes through them, and they come and go with a layer."""

import copy
from functools import cache

import pytest
import torch
from calibrators_toys import memory_store, random_pairs, unet_denoiser
from torch import Tensor, nn

from ptq_export.calibrators.quantise import (
    Method,
    QuantisationState,
    integer_parts,
    quantise,
    quantised_grids,
    restore,
)
from ptq_export.calibrators.reconstruct import Recipe
from ptq_export.calibrators.rounding import SoftGrid
from ptq_export.calibrators.sites import find_sites, keep_float
from ptq_export.denoiser import Denoiser
from ptq_export.nn.grid_point import RESIDUAL, GridPoint
from ptq_export.nn.gridded_block import place_grids
from ptq_export.nn.layers import Grid
from ptq_export.nn.scheme import TENSORRT, placed

BLOCK = "unet.mid_block.resnets.0"
SCHEME = placed(TENSORRT, ["residual", "conv1-output"])
NEAREST = Method(SCHEME, "min-max", None, seed=0)
LEARNED = Method(SCHEME, "l2.4", Recipe(iterations=3, batch=4), seed=0)


@cache
def subject() -> Denoiser:
    return place_grids(unet_denoiser(), SCHEME)


def quantised(method: Method, kept: dict[int, QuantisationState], float_layers: str = "") -> nn.Module:
    sites = find_sites(subject(), SCHEME)
    sites = keep_float(sites, [float_layers], "asked for") if float_layers else sites
    return quantise(subject(), sites, random_pairs(subject(), 4), method, memory_store(kept), lambda _: None)


@cache
def nearest() -> nn.Module:
    return quantised(NEAREST, {})


def test_scales_are_those_of_the_operand_and_of_the_first_convolution_s_result() -> None:
    pairs = random_pairs(subject(), 4)
    seen: dict[str, Tensor] = {}
    denoiser = unet_denoiser()
    block = denoiser.module.get_submodule(BLOCK)
    block.register_forward_pre_hook(lambda _, args: seen.update(residual_grid=args[0]))
    block.conv1.register_forward_hook(lambda _, __, made: seen.update(conv1_grid=made))
    with torch.no_grad():
        denoiser(pairs.sample, pairs.timestep)
    grids = quantised_grids(nearest())
    for name, x in seen.items():
        step = torch.maximum(x.max() / 127, -x.min() / 128)
        found = grids[f"{BLOCK}.{name}"].scale
        assert found == pytest.approx(step.item(), rel=2**-11), "as float16 holds it"
        assert found == found.half().float()


def test_learned_rounding_learns_behind_the_grids() -> None:
    soft = SoftGrid(GridPoint(RESIDUAL), Grid(torch.tensor(0.1001), torch.tensor(0, dtype=torch.int8)), SCHEME)
    x = torch.tensor([0.31, 5.0, 20.0], requires_grad=True)
    y = soft(x)
    y.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1.0, 1.0, 0.0], "what is clipped learns nothing"
    assert torch.equal(soft.harden()(x.detach()), y.detach()) and soft.harden().place == RESIDUAL


@pytest.mark.parametrize("method", [NEAREST, LEARNED], ids=["nearest", "learned"])
def test_grids_are_in_the_states_of_their_units_and_come_back_from_them(method: Method) -> None:
    kept: dict[int, QuantisationState] = {}
    model = quantised(method, kept)
    assert sum(key.endswith("_grid.scale") for state in kept.values() for key in state) == len(quantised_grids(model))
    resumed = quantised(method, {index: state for index, state in kept.items() if index < 4})
    restored = copy.deepcopy(subject().module)
    for state in kept.values():
        restore(restored, state)
    wanted = model.state_dict()
    for other in (resumed, restored):
        found = other.state_dict()
        assert list(found) == list(wanted) and all(torch.equal(found[key], wanted[key]) for key in wanted)


def test_a_layer_in_float_has_no_grid() -> None:
    every = {name.removeprefix(f"{BLOCK}.") for name in quantised_grids(nearest()) if name.startswith(f"{BLOCK}.")}
    model = quantised(NEAREST, {}, float_layers=f"{BLOCK}.conv2")
    left = {name.removeprefix(f"{BLOCK}.") for name in quantised_grids(model) if name.startswith(f"{BLOCK}.")}
    assert (every, left) == ({"conv1_grid", "residual_grid"}, {"conv1_grid"})
    assert type(model.get_submodule(f"{BLOCK}.residual_grid")) is GridPoint


def test_a_layer_brings_its_grids_with_it() -> None:
    parts = integer_parts(nearest())
    assert list(parts[f"{BLOCK}.conv1"]) == [f"{BLOCK}.conv1", f"{BLOCK}.conv1_grid"]
    assert list(parts[f"{BLOCK}.conv2"]) == [f"{BLOCK}.conv2", f"{BLOCK}.residual_grid"]
    alone = [name for name, each in parts.items() if len(each) == 1]
    assert all(name.endswith(("conv_shortcut", "conv", "to_q", "to_k", "to_v", "to_out.0")) for name in alone)
    assert sum(len(each) - 1 for each in parts.values()) == len(quantised_grids(nearest()))
