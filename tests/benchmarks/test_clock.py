import gc
import itertools
import time
from collections import Counter

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
