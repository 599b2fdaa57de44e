import time

import pytest
from torch import Tensor

from ptq_export.benchmarks.clock import Protocol
from ptq_export.benchmarks.loop import measure_loop
from ptq_export.denoiser import NoiseSchedule

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
