"""The rules by which requests share steps, on step times that are given."""

from dataclasses import dataclass

import pytest

from ptq_export.serving.order import PATIENCE, choose, due
from ptq_export.serving.step_times import StepTimes

LINEAR = StepTimes({1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0})
CHEAP = StepTimes({1: 1.0, 2: 1.1, 4: 1.2, 8: 1.3})


@dataclass
class Request:
    name: str
    calls: int
    arrived: float = 0.0
    rows: int = 1
    kind: str = ""
    done: int = 0
    times: StepTimes = LINEAR

    @property
    def calls_left(self) -> int:
        return self.calls - self.done

    @property
    def due(self) -> float:
        return due(self.arrived, self.calls, self.rows, self.times)


def names(requests: list[Request], now: float = 0.0, most: int = 8, times: StepTimes = LINEAR) -> str:
    return "".join(each.name for each in choose(requests, most, times, now))


def test_the_first_due_comes_first_and_its_like_share_the_step() -> None:
    assert names([Request("b", 30), Request("a", 20), Request("c", 40)]) == "abc"


def test_a_step_holds_no_more_rows_than_it_may() -> None:
    guided = [Request(name, 20, rows=2) for name in "abc"]
    assert names(guided, most=4) == "ab"
    assert names([*guided, Request("d", 30)], most=5) == "dab"


def test_other_sizes_are_not_put_into_one_batch() -> None:
    assert names([Request("a", 20), Request("b", 25, kind="other"), Request("c", 30)]) == "ac"


@pytest.mark.parametrize(("times", "expected"), [(LINEAR, "s"), (CHEAP, "sl")])
def test_a_short_one_takes_a_long_one_along_only_where_it_still_ends_in_time(times: StepTimes, expected: str) -> None:
    assert names([Request("l", 100, times=times), Request("s", 4, times=times)], times=times) == expected


def test_whoever_waits_long_enough_is_overtaken_by_nobody() -> None:
    """A short request arrives with every step, for as long as a long one has patience, and longer."""
    long, now, taken = Request("l", 40), 0.0, 0
    while long.calls_left and now < 2 * PATIENCE * long.calls:
        for each in choose([long, Request("s", 4, arrived=now)], 1, LINEAR, now):
            taken += each.name == "l"
            each.done += 1
        now += 1.0
    assert taken == long.calls


def test_largest_batch_is_the_smallest_near_the_best_rate_and_makes_nobody_wait_for_long() -> None:
    assert CHEAP.best_rows == 8
    assert LINEAR.best_rows == 1
    assert StepTimes({1: 1.0, 2: 1.5, 4: 2.4, 8: 4.6, 16: 9.0}).best_rows == 4


def test_step_times_between_measured_sizes_are_in_proportion_and_follow_what_is_seen() -> None:
    times = StepTimes({1: 1.0, 2: 1.5, 4: 2.5})
    assert (times.seconds(3), times.seconds(8)) == (2.0, 5.0)
    for _ in range(100):
        times.saw(2, 3.0)
    assert times.seconds(2) == pytest.approx(3.0, rel=0.01)
