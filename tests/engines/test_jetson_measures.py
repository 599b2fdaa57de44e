"""From steps to figures on the device: rounds in turns, percentiles, ratios, energy."""

import random
from collections.abc import Callable
from itertools import count
from types import SimpleNamespace

import pytest
from on_device import program

measures = program("measures")


class Stream:
    """CUDA's side of a measurement: the n-th step takes n milliseconds on the GPU."""

    def __init__(self) -> None:
        self.events = count()
        self.steps = count(1)
        self.synchronised = 0

    def event(self) -> int:
        return next(self.events)

    def record(self, event: int) -> None:
        """Nothing to do."""

    def synchronise(self) -> None:
        self.synchronised += 1

    def elapsed_ms(self, begin: int, end: int) -> float:
        assert (begin, end) == (0, 1)
        return float(next(self.steps))


def test_every_round_calls_both_the_one_first_and_then_the_other() -> None:
    stream, order = Stream(), []
    steps: dict[str, Callable[[], None]] = {name: lambda name=name: order.append(name) for name in ("int8", "fp16")}
    timings = measures.latencies(steps, stream, 2, 4)
    assert order == ["int8", "fp16", "fp16", "int8"] * 3 and stream.synchronised == 12
    assert timings["int8"]["gpu"] == [1, 4, 5, 8] and timings["fp16"]["gpu"] == [2, 3, 6, 7]
    assert all(value > 0 for value in timings["fp16"]["wall"]) and len(timings["fp16"]["wall"]) == 4


def test_a_summary_has_the_percentiles() -> None:
    found = measures.summary([float(value) for value in range(100, 0, -1)])
    assert (found["n"], found["min"], found["median"], found["max"]) == (100, 1, 50.5, 100)
    assert (found["p90"], found["p95"], found["p99"]) == (91, 96, 100)


def test_a_ratio_s_interval_holds_the_true_one_in_about_95_of_100_runs() -> None:
    generator, held = random.Random(0), 0
    for _ in range(400):
        disturbance = [generator.expovariate(1.0) for _ in range(50)]
        above = [3 * (1 + it) * generator.gauss(1, 0.02) for it in disturbance]
        below = [2 * (1 + it) * generator.gauss(1, 0.02) for it in disturbance]
        found = measures.ratio(above, below)
        held += found["low"] <= 1.5 <= found["high"]
    assert 370 <= held <= 396 and 1.2 < found["ratio"] < 1.8 and found["high"] - found["low"] < 0.05


def test_a_ratio_of_one_round_is_that_round() -> None:
    assert measures.ratio([3.0], [2.0]) == {"ratio": 1.5, "low": 1.5, "high": 1.5}


def test_energy_is_power_times_time_per_step() -> None:
    idle, busy = [{"VDD_IN": 4000}] * 3, [{"VDD_IN": 9000}, {"VDD_IN": 11000}]
    found = measures.energy(idle, busy, steps=500, seconds=10.0)
    assert found["per_step_mj"] == 200.0 and found["above_idle_mj"] == 120.0
    assert (found["busy_mw"], found["idle_mw"], found["samples"], found["rails"]) == (10000, 4000, 2, ["VDD_IN"])


def test_without_known_rails_there_is_no_energy_and_without_idle_samples_none_above_it() -> None:
    assert measures.energy([], [{"VDD_SOC": 5}], 10, 1.0) is None
    assert measures.energy([], [], 10, 1.0) is None
    assert measures.energy([], [{"VDD_IN": 1000}], 10, 1.0)["above_idle_mj"] is None


def test_the_power_of_each_engine_is_measured_while_it_runs_alone_and_in_halves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(measures, "IDLE_S", 0.01)
    asked: list[float] = []
    running: list[str] = ["idle"]
    power_mw = {"idle": 1000, "int8": 3000, "fp16": 5000}

    def between(begin: float, end: float) -> list[dict[str, int]]:
        asked.append(end - begin)
        return [{"VDD_IN": power_mw[running[-1]]}]

    steps = {name: lambda name=name: running.append(name) for name in ("int8", "fp16")}
    found = measures.energies(steps, Stream(), SimpleNamespace(between=between), 10, 0.08)
    assert {name: it["busy_mw"] for name, it in found.items()} == {"int8": 3000, "fp16": 5000}
    halves = [name for index, name in enumerate(running) if name != running[index - 1]]
    assert halves == ["idle", "int8", "fp16", "int8"] and len(asked) == 5
    assert all(0.03 <= duration < 0.08 for duration in asked[1:]), "40 ms less the first 10"
    assert all(it["samples"] == 2 and it["idle_mw"] == 1000 and it["steps"] > 2 for it in found.values())


def test_steps_are_repeated_for_the_asked_time_and_seldom_waited_for() -> None:
    stream, done = Stream(), []
    steps, begin, end = measures.keep_busy(lambda: done.append(1), stream, 0.05)
    assert steps == len(done) and 0.05 <= end - begin < 1
    assert stream.synchronised < 40 < steps, "and not once a step"
