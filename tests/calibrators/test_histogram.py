"""Histograms count every value once, per channel or pooled, in memory that the number of samples does not touch."""

import pytest
import torch
from torch import Tensor

from ptq_export.calibrators.histogram import BINS, ChannelHistogram, ChannelRange, channels_first


def activation(count: int, seed: int = 0) -> Tensor:
    return torch.randn((count, 3, 5, 5), generator=torch.Generator().manual_seed(seed)) * torch.tensor(
        [[[0.1]], [[1.0]], [[10.0]]]
    )


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 4, 3), (7, 3)], ids=["convolution", "tokens", "rows"])
def test_channels_come_first(shape: tuple[int, ...]) -> None:
    axis = 1 if len(shape) == 4 else -1
    x = torch.arange(3.0).reshape([3 if d == axis % len(shape) else 1 for d in range(len(shape))]).expand(shape)
    rows = channels_first(x)
    assert rows.shape == (3, x.numel() // 3)
    assert torch.equal(rows, torch.arange(3.0)[:, None].expand_as(rows))


def test_a_range_widens_and_always_holds_zero() -> None:
    found = ChannelRange.of(torch.tensor([[[[2.0]], [[-3.0]]]]))
    assert (found.low.tolist(), found.high.tolist()) == ([0, -3], [2, 0])
    found.update(torch.tensor([[[[-1.0]], [[-2.0]]]]))
    assert (found.low.tolist(), found.high.tolist()) == ([-1, -3], [2, 0])
    pooled = found.per_tensor()
    assert (pooled.low.tolist(), pooled.high.tolist()) == ([-3], [2])


def test_every_value_is_counted_once_in_its_bin() -> None:
    x = activation(8)
    histogram = ChannelHistogram(ChannelRange.of(x))
    for part in x.split(3):
        histogram.update(part)
    assert histogram.counts.sum(1).tolist() == [8 * 25] * 3
    for row, values in enumerate(channels_first(x)):
        low, high = float(histogram.limits.low[row]), float(histogram.limits.high[row])
        wanted = torch.histogram(values.double(), BINS, range=(low, high)).hist
        # A value within float rounding of an edge may fall on its other side.
        assert (histogram.counts[row] - wanted).abs().sum() <= 2


def test_memory_depends_on_channels_alone() -> None:
    histogram = ChannelHistogram(ChannelRange.of(activation(2)))
    sizes = []
    for count in (1, 50):
        histogram.update(activation(count))
        sizes.append([tuple(value.shape) for value in vars(histogram).values() if isinstance(value, Tensor)])
    assert sizes == [[(3,), (3, BINS)]] * 2


def test_one_range_pools_all_channels() -> None:
    x = activation(4)
    histogram = ChannelHistogram(ChannelRange.of(x).per_tensor())
    histogram.update(x)
    assert histogram.counts.shape == (1, BINS)
    assert histogram.counts.sum() == x.numel()
    mean = (histogram.centres() * histogram.counts).sum() / x.numel()
    assert abs(mean - x.mean()) < histogram.width[0]


def test_values_outside_the_limits_count_at_the_ends() -> None:
    histogram = ChannelHistogram(ChannelRange(torch.tensor([-1.0]), torch.tensor([1.0])))
    histogram.update(torch.tensor([[-5.0], [5.0], [1.0], [-1.0]]))
    assert (histogram.counts[0, 0], histogram.counts[0, -1]) == (2, 2)


def test_a_channel_that_is_always_zero_stays_finite() -> None:
    histogram = ChannelHistogram(ChannelRange.of(torch.zeros(2, 3, 4, 4)))
    histogram.update(torch.zeros(2, 3, 4, 4))
    assert histogram.counts[:, 0].tolist() == [32] * 3
    assert histogram.centres().abs().max() < 1e-6
