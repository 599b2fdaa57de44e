"""Reconstruction lowers a unit's error, bias correction removes its mean; both leave everything else alone."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from ptq_export.calibrators.capture import BATCH, UnitData
from ptq_export.calibrators.reconstruct import Recipe, correct_bias, reconstruct
from ptq_export.calibrators.rounding import SoftLayer
from ptq_export.nn.calls import Call
from ptq_export.nn.layers import Grid
from ptq_export.nn.scheme import ORT_CPU

RECIPE = Recipe(iterations=150, batch=8)
COARSE = replace(ORT_CPU, pair_limit=10)
"""Weights on about three bits, so that rounding is what decides the error."""


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    """conv2(silu(conv1(x))) + x, all on five channels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.conv1, self.conv2 = nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 5, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(nn.functional.silu(self.conv1(x)))
        return y + x


def block_data(count: int = 20) -> tuple[Block, UnitData]:
    block = Block().requires_grad_(False)
    x = noise(count, 5, 6, 6)
    return block, UnitData(Call((x,), {}, len(x)), block(x))


def soften(block: Block, learn: bool) -> tuple[Block, dict[str, SoftLayer]]:
    """A copy of `block` with coarse soft layers whose input grids cover [-4, 4]."""
    copied = copy.deepcopy(block)
    grid = Grid(torch.tensor(8 / 255), torch.tensor(128, dtype=torch.uint8))
    soft = {name: SoftLayer(getattr(copied, name), grid, None, COARSE, learn) for name in ("conv1", "conv2")}
    for name, layer in soft.items():
        copied.set_submodule(name, layer)
    return copied, soft


def hard_error(module: Block, soft: dict[str, SoftLayer], data: UnitData) -> float:
    for name, layer in soft.items():
        module.set_submodule(name, layer.harden())
    return float((data.call.again(module) - data.output).square().mean())


def test_learned_rounding_has_less_block_error_than_nearest() -> None:
    """Measured: 3.9e-4 learned, 4.8e-4 nearest with its biases corrected."""
    block, data = block_data()
    near, near_soft = soften(block, learn=False)
    correct_bias(block, near, near_soft, data, data)
    learned, learned_soft = soften(block, learn=True)
    reconstruct(learned, list(learned_soft.values()), data, RECIPE, seed=0)
    error_nearest, error_learned = hard_error(near, near_soft, data), hard_error(learned, learned_soft, data)
    assert 0 < error_learned <= 0.9 * error_nearest


def test_reconstruction_depends_on_its_seed_alone() -> None:
    codes = []
    for seed, global_seed in ((3, 0), (3, 1), (4, 1)):
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        block, data = block_data()
        module, soft = soften(block, learn=True)
        torch.set_rng_state(state)
        reconstruct(module, list(soft.values()), data, replace(RECIPE, iterations=10), seed)
        assert torch.equal(torch.get_rng_state(), state)
        codes.append(torch.cat([layer.alpha.flatten() for layer in soft.values()]))
    assert torch.equal(codes[0], codes[1]) and not torch.equal(codes[0], codes[2])


def test_the_regulariser_drives_every_weight_to_a_side() -> None:
    block, data = block_data()
    module, soft = soften(block, learn=True)
    between = [((layer.rounding() - 0.5).abs() < 0.45).float().mean() for layer in soft.values()]
    reconstruct(module, list(soft.values()), data, replace(RECIPE, regulariser=0.1, rounding_rate=0.1), seed=0)
    after = [((layer.rounding() - 0.5).abs() < 0.45).float().mean() for layer in soft.values()]
    assert min(between) > 0.7 and max(after) < 0.1


def test_a_settled_layer_computes_what_its_integers_will() -> None:
    block, data = block_data()
    module, soft = soften(block, learn=True)
    reconstruct(module, list(soft.values()), data, replace(RECIPE, iterations=10), seed=0)
    leaning = data.call.again(module)
    for layer in soft.values():
        layer.settle()
    settled = data.call.again(module)
    for name, layer in soft.items():
        module.set_submodule(name, layer.harden())
    hard = data.call.again(module)
    assert (settled - hard).square().mean() < 0.05 * (settled - leaning).square().mean()


@pytest.mark.parametrize("shape", [(9, 4), (9, 3, 4), (9, 3, 3, 4)], ids=str)
def test_linears_are_reconstructed_on_any_leading_shape(shape: tuple[int, ...]) -> None:
    layer, x = nn.Linear(4, 6).requires_grad_(False), noise(*shape)
    grid = Grid(torch.tensor(8 / 255), torch.tensor(128, dtype=torch.uint8))
    soft = SoftLayer(layer, grid, None, COARSE, learn=True)
    reconstruct(soft, [soft], UnitData(Call((x,), {}, len(x)), layer(x)), replace(RECIPE, iterations=3), seed=0)
    near = SoftLayer(layer, grid, None, COARSE, learn=False)
    correct_bias(
        layer, near, {"": near}, UnitData(Call((x,), {}, len(x)), layer(x)), UnitData(Call((x,), {}, len(x)), layer(x))
    )
    assert (near(x) - layer(x)).flatten(0, -2).mean(0).abs().max() < 1e-5


def test_bias_correction_removes_the_mean_error_of_every_layer() -> None:
    """20 samples make an uneven last batch: it weighs by its samples."""
    block, data = block_data(BATCH + 4)
    module, soft = soften(block, learn=False)
    before = (data.call.again(module) - data.output).mean((0, 2, 3)).abs().max()
    correct_bias(block, module, soft, data, data)
    after = (data.call.again(module) - data.output).mean((0, 2, 3)).abs().max()
    assert before > 5e-3 and after < 1e-5


def test_bias_correction_sees_what_the_quantised_network_reads() -> None:
    block, wanted = block_data()
    module, soft = soften(block, learn=False)
    shifted = UnitData(wanted.call.map(lambda value: value + 0.3), wanted.output)
    correct_bias(block, module, soft, wanted, shifted)
    error = module.conv2(nn.functional.silu(module.conv1(shifted.call.args[0]))) - (wanted.output - wanted.call.args[0])
    assert error.mean((0, 2, 3)).abs().max() < 1e-5
