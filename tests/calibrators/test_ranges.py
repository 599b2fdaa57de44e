"""Each range metric on distributions whose answer is known."""

import pytest
import torch
from torch import Tensor

from ptq_export.calibrators.histogram import ChannelHistogram, ChannelRange
from ptq_export.calibrators.ranges import METRICS, clip_range, find_metric
from ptq_export.errors import InputError
from ptq_export.nn.code_type import INT8, UINT8


def histogram_of(rows: Tensor) -> ChannelHistogram:
    """Of values `[C, n]`."""
    found = ChannelHistogram(ChannelRange.of(rows.t()))
    found.update(rows.t())
    return found


def normal(count: int = 20_000) -> Tensor:
    return torch.randn((1, count), generator=torch.Generator().manual_seed(0))


def laplace(count: int = 50_000) -> Tensor:
    u = torch.rand((1, count), generator=torch.Generator().manual_seed(0)) - 0.5
    return -u.sign() * (1 - 2 * u.abs()).clamp_min(1e-6).log()


def span(rows: Tensor, metric: str) -> float:
    clip = clip_range(histogram_of(rows), metric)
    return float(clip.high - clip.low)


def test_min_max_is_the_range_itself() -> None:
    histogram = histogram_of(normal())
    clip = clip_range(histogram, "min-max")
    assert torch.equal(clip.low, normal().amin(1)) and torch.equal(clip.high, normal().amax(1))


def test_percentile_drops_one_outlier_in_ten_thousand() -> None:
    rows = normal()
    rows[0, 0] = 1000.0
    clip = clip_range(histogram_of(rows), "percentile")
    assert clip.high < 6 and clip.low > -6


@pytest.mark.parametrize("metric", METRICS)
def test_evenly_spread_values_keep_their_whole_range(metric: str) -> None:
    """Nothing is gained by clipping a uniform distribution."""
    rows = torch.linspace(-1, 3, 30_001)[None]
    assert span(rows, metric) == pytest.approx(4, rel=0.035)


@pytest.mark.parametrize("metric", ["l1", "l2", "l2.4"])
def test_distances_clip_long_tails_and_higher_powers_clip_less(metric: str) -> None:
    spans = {name: span(laplace(), name) for name in ("l1", "l2", "l2.4", "min-max")}
    assert spans["l1"] <= spans["l2"] <= spans["l2.4"] < spans["min-max"]
    assert spans[metric] > 0.3 * spans["min-max"]


def test_l2_has_the_least_squared_error_of_all_metrics() -> None:
    rows = laplace()
    errors = {}
    for metric in METRICS:
        clip = clip_range(histogram_of(rows), metric)
        scale = (clip.high - clip.low) / UINT8.steps
        zero_point = (-clip.low / scale).round()
        codes = ((rows / scale).round() + zero_point).clamp(0, UINT8.steps)
        errors[metric] = float(((codes - zero_point) * scale - rows).square().mean())
    assert errors["l2"] <= 1.02 * min(errors.values())
    assert errors["l2"] < 0.9 * errors["min-max"]


@pytest.mark.parametrize("metric", METRICS)
def test_a_range_lies_inside_the_limits_and_holds_zero(metric: str) -> None:
    rows = torch.cat([laplace(5000), normal(5000), normal(5000).abs(), -normal(5000).abs(), torch.zeros(1, 5000)])
    histogram = histogram_of(rows)
    clip = clip_range(histogram, metric)
    assert clip.low.isfinite().all() and clip.high.isfinite().all()
    assert (clip.low >= histogram.limits.low).all() and (clip.high <= histogram.limits.high + 1e-9).all()
    assert (clip.low <= 0).all() and (clip.high >= 0).all()
    assert ((clip.high - clip.low)[:4] > 0.29 * (histogram.limits.high - histogram.limits.low)[:4]).all()


@pytest.mark.parametrize("metric", METRICS)
def test_channels_are_judged_one_by_one(metric: str) -> None:
    rows = torch.cat([laplace(5000), 100 * normal(5000)])
    together, alone = clip_range(histogram_of(rows), metric), clip_range(histogram_of(rows[:1]), metric)
    torch.testing.assert_close(together.high[:1], alone.high)
    torch.testing.assert_close(together.low[:1], alone.low)


def test_an_unknown_metric_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown range metric 'cosin'") as refused:
        find_metric("cosin")
    assert refused.value.remedy.startswith("did you mean cosine?")
    assert all(known in refused.value.remedy for known in METRICS)


@pytest.mark.parametrize("metric", METRICS)
def test_a_symmetric_range_is_that_of_int8_codes_around_zero(metric: str) -> None:
    """Values above zero alone waste the codes below: their step is that of 127 codes."""
    rows = torch.linspace(0, 2, 30_001)[None]
    clip = clip_range(histogram_of(rows), metric, INT8)
    assert float(clip.low / clip.high) == pytest.approx(-128 / 127)
    assert float(clip.high) == pytest.approx(2, rel=0.05)


def test_a_symmetric_range_follows_the_larger_side_and_clips_long_tails() -> None:
    wide = clip_range(histogram_of(-normal().abs() * 3), "min-max", INT8)
    assert float(wide.low) == pytest.approx(float(-normal().abs().max() * 3), rel=0.01)
    tails = {name: float(clip_range(histogram_of(laplace()), name, INT8).high) for name in ("l2", "min-max")}
    assert tails["l2"] < 0.95 * tails["min-max"]
