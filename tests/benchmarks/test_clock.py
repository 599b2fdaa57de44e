import gc
import itertools
import time
from collections import Counter
from dataclasses import replace

import pytest

from ptq_export.benchmarks.timing.clock import Protocol, call_order, interleave


@pytest.mark.parametrize("names", ["ab", "abc", "abcd", "abcde"])
def test_every_candidate_takes_every_position_equally_often(names: str) -> None:
    orders = [call_order(names, index) for index in range(2 * len(names))]
    for position in range(len(names)):
        assert sorted(order[position] for order in orders) == sorted(names * 2)


@pytest.mark.parametrize("names", ["ab", "abc", "abcd", "abcde"])
def test_every_candidate_follows_every_other_equally_often(names: str) -> None:
    orders = [call_order(names, index) for index in range(2 * len(names))]
    neighbours = Counter(pair for order in orders for pair in itertools.pairwise(order))
    assert neighbours == dict.fromkeys(itertools.permutations(names, 2), 2)


def test_each_round_calls_each_candidate_once_after_the_warmup() -> None:
    calls: list[str] = []
    candidates = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    latencies = interleave(candidates, Protocol(warmup=2, min_rounds=4, min_seconds=0))
    assert calls == [*"abab", *"abba", *"abba"]
    assert [latencies[name].n for name in "ab"] == [4, 4]


def test_it_goes_on_until_the_time_is_up() -> None:
    started = time.perf_counter()
    latency = interleave({"a": lambda: time.sleep(0.01)}, Protocol(warmup=0, min_rounds=1, min_seconds=0.1))["a"]
    assert time.perf_counter() - started >= 0.1
    assert 2 <= latency.n <= 10
    assert latency.min_ms >= 10


@pytest.mark.parametrize(
    ("round_s", "warmup", "rounds"), [(0.01, 5, 30), (3.4, 5, 30), (4.0, 2, 28), (10.0, 2, 10), (90.0, 2, 10)]
)
def test_rounds_that_would_take_too_long_are_fewer_but_enough_for_a_verdict(
    round_s: float, warmup: int, rounds: int
) -> None:
    protocol = Protocol(warmup=5, min_rounds=30, max_seconds=120)
    assert protocol.fitted(round_s) == replace(protocol, warmup=warmup, min_rounds=rounds)
    assert Protocol(5, 30).fitted(round_s) == Protocol(5, 30), "there is no limit by default"
    assert replace(protocol, warmup=1, min_rounds=5, fewest=1).fitted(90.0).min_rounds == 1


def test_the_second_untimed_round_decides_so_that_an_engine_may_prepare_itself_in_the_first() -> None:
    calls: list[float] = []

    def call(first_s: float, then_s: float) -> None:
        calls.append(time.perf_counter())
        time.sleep(then_s if len(calls) > 1 else first_s)

    protocol = Protocol(warmup=3, min_rounds=20, min_seconds=0, max_seconds=0.5)
    assert interleave({"a": lambda: call(0.4, 0.0)}, protocol)["a"].n == 20
    calls.clear()
    assert interleave({"a": lambda: call(0.0, 0.06)}, protocol)["a"].n == 10
    assert len(calls) == 2 + 10


def test_progress_rises_to_one() -> None:
    shares: list[float] = []
    interleave({"a": lambda: None}, Protocol(warmup=0, min_rounds=5, min_seconds=0), shares.append)
    assert shares == [0.2, 0.4, 0.6, 0.8, 1.0]


def test_garbage_collection_pauses_and_comes_back_after_a_failure() -> None:
    def fail() -> None:
        assert not gc.isenabled()
        raise RuntimeError("engine")

    with pytest.raises(RuntimeError, match="engine"):
        interleave({"a": fail}, Protocol())
    assert gc.isenabled()
