import time
from typing import Any

import pytest
from exported_net import inputs_of
from torch import Tensor

from ptq_export.benchmarks.timing.clock import Protocol
from ptq_export.benchmarks.timing.loop import measure_loop, measure_overhead
from ptq_export.denoiser import NoiseSchedule
from ptq_export.engines.base import Engine, Signature

QUICK = Protocol(warmup=1, min_rounds=2, min_seconds=0)


def slow(sample: Tensor, timestep: Tensor) -> Tensor:
    time.sleep(0.02)
    return sample * 0.1


def fast(sample: Tensor, timestep: Tensor) -> Tensor:
    return sample * 0.1


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++"])
def test_share_outside_is_what_the_engine_does_not_take(sampler: str) -> None:
    loop = measure_loop({"slow": slow, "fast": fast}, sampler, NoiseSchedule(), 4, (2, 1, 4, 4), QUICK).to_json()
    assert (loop["sampler"], loop["steps"], loop["batch"]) == (sampler, 4, 2)
    assert 0 < loop["candidates"]["slow"]["outside_share"] < loop["candidates"]["fast"]["outside_share"] < 1
    assert loop["candidates"]["slow"]["outside_share"] < 0.5
    assert loop["candidates"]["slow"]["total_s"] >= 0.08


def test_share_is_of_the_timed_rounds_and_not_of_the_warmup() -> None:
    naps = iter([0.1, 0.1])

    def slow_at_first(sample: Tensor, timestep: Tensor) -> Tensor:
        time.sleep(next(naps, 0))
        return sample

    loop = measure_loop({"a": slow_at_first}, "ddim", NoiseSchedule(), 2, (1, 1, 4, 4), QUICK)
    assert 0 < loop.candidates["a"].outside_share < 1


def test_time_per_step_is_the_total_over_the_steps() -> None:
    timing = measure_loop({"slow": slow}, "ddim", NoiseSchedule(), 3, (1, 1, 4, 4), QUICK).candidates["slow"]
    assert timing.per_step_ms == pytest.approx(timing.total_s * 1000 / 3)


class Napping(Engine):
    """An engine whose runtime takes 10 ms, in a Python that adds 10 ms to every call."""

    def __init__(self) -> None:
        super().__init__(Signature(inputs_of((1, 4, 4)), 1))
        self.calls = 0

    def __call__(self, sample: Any, timestep: Any, **conditions: Any) -> Any:
        time.sleep(0.01)
        return super().__call__(sample, timestep, **conditions)

    def run(self, feeds: Any) -> Any:
        self.calls += 1
        time.sleep(0.01)
        return 0.1 * feeds["sample"]

    executed_layers = layer_times_ms = run_graph = None  # type: ignore[assignment]


def test_overhead_is_what_the_loop_takes_beyond_the_calls_of_the_runtime() -> None:
    engine = Napping()
    overhead = measure_overhead(engine, NoiseSchedule(), 4, 2, QUICK)
    assert 0.8 < overhead.share < 3  # the nap, and the scheduler
    assert overhead.runtime.median_ms >= 40
    assert engine.calls == 4 * (1 + 2 * 3)  # one loop to record the inputs, then warm-up and two rounds of each
    assert overhead.to_json()["share"] == pytest.approx(overhead.share, abs=1e-6)
