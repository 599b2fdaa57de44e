"""From times and powers to the report of the device: percentiles, energy, warnings, text."""

from itertools import count
from typing import Any

import pytest
from on_device import program

measures = program("measures")
STEADY = {"wall": {"median": 5.0, "p99": 5.5}, "gpu": {"median": 4.8, "p99": 5.0}}


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


def test_latency_counts_the_steps_after_the_warm_up() -> None:
    stream, calls = Stream(), count()
    timing = measures.latency(lambda: next(calls), stream, 5, 100)
    assert next(calls) == 105 and stream.synchronised == 105
    gpu = timing["gpu"]
    assert (gpu["n"], gpu["min"], gpu["median"], gpu["max"]) == (100, 1, 50.5, 100)
    assert (gpu["p90"], gpu["p95"], gpu["p99"]) == (91, 96, 100)
    assert timing["wall"]["n"] == 100 and timing["wall"]["min"] > 0


def test_energy_is_power_times_time_per_step() -> None:
    idle, busy = [{"VDD_IN": 4000}] * 3, [{"VDD_IN": 9000}, {"VDD_IN": 11000}]
    found = measures.energy(idle, busy, steps=500, seconds=10.0)
    assert found["per_step_mj"] == 200.0 and found["above_idle_mj"] == 120.0
    assert (found["busy_mw"], found["idle_mw"], found["samples"], found["rails"]) == (10000, 4000, 2, ["VDD_IN"])


def test_without_known_rails_there_is_no_energy_and_without_idle_samples_none_above_it() -> None:
    assert measures.energy([], [{"VDD_SOC": 5}], 10, 1.0) is None
    assert measures.energy([], [], 10, 1.0) is None
    assert measures.energy([], [{"VDD_IN": 1000}], 10, 1.0)["above_idle_mj"] is None


def test_steps_are_repeated_for_the_asked_time() -> None:
    steps, begin, end = measures.keep_busy(lambda: None, Stream(), 0.05)
    assert steps > 1 and 0.05 <= end - begin < 1


@pytest.mark.parametrize(
    ("timing", "clock", "words"),
    [
        (STEADY, (1020, 1020), []),
        (STEADY, (306, 1020), ["306 to 1020 MHz"]),
        (STEADY, None, ["unknown"]),
        (STEADY | {"gpu": {"median": 4.8, "p99": 9.0}}, (1, 1), ["unstable"]),
        (STEADY | {"wall": {"median": 9.0, "p99": 9.5}}, (1, 1), ["host-bound"]),
    ],
    ids=["steady", "free clock", "unknown clock", "unstable", "host-bound"],
)
def test_what_disturbs_a_comparison_is_warned_of(timing: Any, clock: Any, words: list[str]) -> None:
    found = measures.warnings(timing, clock, "")
    assert len(found) == len(words) and all(word in text for word, text in zip(words, found, strict=True))


def test_the_report_names_the_device_the_percentiles_and_the_energy() -> None:
    row = measures.summary([1.0, 2.0, 4.0])
    report = {
        "device": {"board": "Orin", "l4t": "36.4.3", "tensorrt": "10.3.0"},
        "power_mode": "15W",
        "gpu_clock_mhz": (1020, 1020),
        "batch": 1,
        "latency_ms": {"wall": row, "gpu": row},
        "energy": measures.energy([], [{"VDD_IN": 1000}], 10, 1.0),
        "warnings": ["the fan is off"],
    }
    text = "\n".join(measures.lines(report))
    for part in ("Orin, L4T 36.4.3, TensorRT 10.3.0, power mode 15W, GPU 1020-1020 MHz", "p95", "2.000", "100.0 mJ"):
        assert part in text
    assert text.endswith("warning: the fan is off")
    assert "energy" not in "\n".join(measures.lines(report | {"energy": None}))
