"""Which groups of layers are tried, and in which order."""

import pytest
import tiny

from ptq_export.calibrators.sites import Unit
from ptq_export.pipeline.tuning.candidates import LayerTimes, Work, find_work, group_candidates

WIDE, DEEP = (
    Work("3x3 convolution", (32, 32, 3, 3), (8, 8), 4096),
    Work("3x3 convolution", (32, 32, 3, 3), (4, 4), 1024),
)
LINEAR = Work("linear", (32, 32), (16,), 1024)
WORK = {"a.conv1": WIDE, "a.conv2": WIDE, "b.conv": DEEP, "b.to_q": LINEAR}
UNITS = (Unit("a", ("a.conv1", "a.conv2")), Unit("b.conv", ("b.conv",)), Unit("b.to_q", ("b.to_q",)))


def times(int8_step_ms: float = 4.0, float_step_ms: float = 5.0, **int8_ms: float) -> LayerTimes:
    """Every layer takes 1 ms in float."""
    names = dict(zip(WORK, ("wide", "wide", "deep", "linear"), strict=True))
    int8 = {name: int8_ms.get(kind, 1.0) for name, kind in names.items()}
    return LayerTimes(int8, dict.fromkeys(WORK, 1.0), int8_step_ms, float_step_ms)


def test_each_group_comes_once_the_most_promising_first() -> None:
    found = group_candidates(WORK, UNITS, times(3.5, 4.2, wide=0.3, deep=1.2, linear=1.1))
    titles = {"".join(sorted(candidate.layers)): candidate.title for candidate in found}
    assert titles == {
        "b.convb.to_q": "all that promise a gain",
        "a.conv1a.conv2b.conv": "3x3 convolutions",
        "b.to_q": "linears",
        "a.conv1a.conv2": "convolutions of size 8x8",
        "b.conv": "convolutions of size 4x4",
        "a.conv1": "a.conv1",
        "a.conv2": "a.conv2",
    }
    gains = [candidate.expected_ms for candidate in found]
    assert gains == sorted(gains, reverse=True) and found[0].title == "all that promise a gain"


def test_what_int8_costs_around_the_layers_is_shared_by_what_they_move() -> None:
    """10 ms and 4.6 in the layers against 9 and 4: 0.4 ms of overhead for 10240 numbers."""
    found = group_candidates(WORK, UNITS, times(10.0, 9.0, linear=1.6))
    expected_ms = {candidate.title: candidate.expected_ms for candidate in found if len(candidate.layers) == 1}
    assert expected_ms["a.conv1"] == pytest.approx(0.4 * 4096 / 10240)
    assert expected_ms["linears"] == pytest.approx(0.6 + 0.4 * 1024 / 10240)


def test_work_is_read_from_one_call_of_the_network() -> None:
    conv, linear = "unet.mid_block.resnets.0.conv1", "unet.mid_block.attentions.0.to_q"
    found = find_work(tiny.denoiser(), [linear, conv])
    assert list(found) == [linear, conv]
    assert found[conv] == Work("3x3 convolution", (32, 32, 3, 3), (4, 4), 2 * 32 * 16)
    assert found[linear] == Work("linear", (32, 32), (16,), 2 * 32 * 16)
