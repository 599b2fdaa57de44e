"""Grids: one zero point for all channels of an input, and weight steps that cannot saturate a pair."""

import pytest
import torch
from torch import Tensor, nn

from ptq_export.calibrators.grids import (
    bias_step,
    fold_input_scale,
    input_grid,
    output_grid,
    pairing_order,
    symmetric_grid,
    weight_scale,
)
from ptq_export.calibrators.histogram import ChannelHistogram, ChannelRange
from ptq_export.nn.layers import Grid


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def histogram_of(x: Tensor, pooled: bool = False) -> ChannelHistogram:
    limits = ChannelRange.of(x)
    found = ChannelHistogram(limits.per_tensor() if pooled else limits)
    found.update(x)
    return found


def covers(grid: Grid, x: Tensor) -> bool:
    low = -grid.zero_point.float() * grid.scale
    high = (255 - grid.zero_point.float()) * grid.scale
    steps = 0.01 * grid.scale
    return bool((x.amin((0, 2, 3)) >= low - steps).all() and (x.amax((0, 2, 3)) <= high + steps).all())


def test_after_silu_the_shared_zero_point_is_low_and_every_channel_is_covered() -> None:
    """SiLU is above -0.28: few codes go below zero, whatever the gain of the channel."""
    x = nn.functional.silu(noise(4, 6, 8, 8) * torch.linspace(2, 12, 6)[:, None, None])
    grid = input_grid(histogram_of(x), "min-max", noise(5, 6, 3, 3))
    assert grid.scale.shape == (6,) and grid.zero_point.shape == () and grid.zero_point.dtype == torch.uint8
    assert 1 <= grid.zero_point <= 40
    assert covers(grid, x)


def test_channels_share_the_best_zero_point_of_all_256() -> None:
    x = noise(4, 3, 8, 8) + torch.tensor([[[-1.0]], [[0.5]], [[2.0]]])
    weight, histogram = noise(2, 3, 1, 1), histogram_of(x)
    energy = weight.square().sum((0, 2, 3))

    def noise_behind(z: int) -> float:
        steps = torch.maximum(-histogram.limits.low / max(z, 1e-9), histogram.limits.high / max(255 - z, 1e-9))
        return float((steps.square() * energy).sum())

    grid = input_grid(histogram, "min-max", weight)
    assert int(grid.zero_point) == min(range(256), key=noise_behind)
    assert float((grid.scale.square() * energy).sum()) == pytest.approx(noise_behind(int(grid.zero_point)), rel=1e-5)


def test_a_pooled_histogram_gives_one_scalar_grid() -> None:
    x = noise(4, 3, 8, 8) * torch.tensor([[[1.0]], [[5.0]], [[0.1]]])
    grid = input_grid(histogram_of(x, pooled=True), "min-max", noise(2, 3, 1, 1))
    assert grid.scale.shape == () and grid.zero_point.shape == ()
    assert float(grid.scale) == pytest.approx(float(x.max() - x.min()) / 255, rel=0.02)
    assert covers(Grid(grid.scale.expand(3), grid.zero_point), x)


def test_values_above_zero_alone_use_every_code() -> None:
    x = noise(4, 3, 8, 8).abs()
    grid = input_grid(histogram_of(x), "min-max", noise(2, 3, 1, 1))
    assert int(grid.zero_point) == 0
    torch.testing.assert_close(grid.scale, x.amax((0, 2, 3)) / 255)


def test_a_channel_without_weights_does_not_decide_the_zero_point() -> None:
    weight = noise(2, 3, 1, 1)
    weight[:, 1] = 0
    x = noise(4, 3, 8, 8)
    grid = input_grid(histogram_of(x), "min-max", weight)
    assert grid.scale.isfinite().all() and covers(grid, x)


def test_output_channels_have_grids_of_their_own() -> None:
    x = noise(4, 3, 8, 8) * torch.tensor([[[1.0]], [[5.0]], [[0.1]]]) + 0.3
    grid = output_grid(histogram_of(x), "min-max")
    assert grid.scale.shape == (3,) and grid.zero_point.shape == (3,) and grid.zero_point.dtype == torch.uint8
    limits = ChannelRange.of(x)
    torch.testing.assert_close(grid.scale, (limits.high - limits.low) / 255)
    assert ((grid.zero_point * grid.scale + limits.low).abs() <= 0.501 * grid.scale).all()


def test_folding_moves_the_channel_steps_into_the_weights() -> None:
    weight, x = noise(2, 3, 3, 3), noise(1, 3, 5, 5)
    grid = Grid(torch.tensor([0.1, 0.2, 0.05]), torch.tensor(9, dtype=torch.uint8))
    gained = x * (0.2 / grid.scale)[:, None, None]
    wanted = nn.functional.conv2d(x, weight)
    torch.testing.assert_close(nn.functional.conv2d(gained, fold_input_scale(weight, grid)), wanted)
    scalar = Grid(torch.tensor(0.3), grid.zero_point)
    assert torch.equal(fold_input_scale(weight[:, :, 0, 0], scalar), weight[:, :, 0, 0])


def test_pairs_are_adjacent_input_channels() -> None:
    weight = torch.arange(2 * 4 * 3 * 3).reshape(2, 4, 3, 3)
    assert pairing_order(weight)[1, :5].tolist() == [36, 45, 54, 63, 37]
    assert torch.equal(pairing_order(weight[:, :, 0, 0]), weight[:, :, 0, 0])


@pytest.mark.parametrize("columns", [1, 2, 7, 8])
def test_a_step_leaves_every_pair_two_steps_of_room(columns: int) -> None:
    weight = noise(50, columns)
    ratio = weight / weight_scale(weight, 128)[:, None]
    padded = nn.functional.pad(ratio, (0, columns % 2)).unflatten(1, (-1, 2))
    same = padded.sign().prod(2) > 0
    assert ratio.abs().max() <= 127.001
    sums = torch.where(same, padded.abs().sum(2), torch.zeros(()))
    assert sums.max() <= 126.001
    reached = torch.maximum(ratio.abs().amax(1) / 127, sums.amax(1) / 126)
    torch.testing.assert_close(reached, torch.ones(50))


@pytest.mark.parametrize("columns", [1, 2, 7, 8])
def test_a_step_leaves_any_two_neighbours_two_steps_of_room(columns: int) -> None:
    weight = noise(50, columns)
    ratio = weight / weight_scale(weight, 128, even_pairs=False)[:, None]
    sums = (ratio[:, 1:] + ratio[:, :-1]).abs()[ratio[:, 1:].sign() == ratio[:, :-1].sign()]
    assert ratio.abs().max() <= 127.001 and (sums <= 126.001).all()


def test_opposite_signs_may_both_be_large() -> None:
    torch.testing.assert_close(weight_scale(torch.tensor([[1.0, -1.0]]), 128), torch.tensor([1 / 127]))
    torch.testing.assert_close(weight_scale(torch.tensor([[1.0, 1.0]]), 128), torch.tensor([2 / 126]))


def test_bias_step_keeps_the_bias_and_the_output_zero_point_within_31_bits() -> None:
    bias, unit = torch.tensor([0.0, 5.0, -5.0]), torch.tensor(0.01)
    output = Grid(torch.tensor([0.1, 0.1, 0.1]), torch.tensor([0, 255, 0], dtype=torch.uint8))
    torch.testing.assert_close(bias_step(bias, unit, None) * unit * 2**30, bias.abs())
    torch.testing.assert_close(bias_step(bias, unit, output) * unit * 2**30, torch.tensor([0.0, 30.5, 5.0]))


def test_a_symmetric_grid_is_int8_around_zero() -> None:
    x = noise(4, 3, 8, 8) * torch.tensor([[[1.0]], [[5.0]], [[0.1]]])
    grid = symmetric_grid(histogram_of(x, pooled=True), "min-max")
    assert grid.zero_point.dtype == torch.int8 and grid.zero_point == 0 and grid.zero_point.shape == ()
    assert float(grid.scale) == pytest.approx(max(float(x.max()) / 127, float(-x.min()) / 128), rel=1e-3)
