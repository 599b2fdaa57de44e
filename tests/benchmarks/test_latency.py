import json

import numpy as np
import torch
from torch import Tensor

from ptq_export.benchmarks.environment import describe_environment
from ptq_export.benchmarks.timing.clock import Protocol
from ptq_export.benchmarks.timing.latency import LatencyReport, StepLatency, measure_steps
from ptq_export.benchmarks.timing.stats import Latency, judge
from ptq_export.pairs import Pairs

QUICK = Protocol(warmup=1, min_rounds=4, min_seconds=0)


class Recorder:
    """An engine that notes what it is called with."""

    def __init__(self) -> None:
        self.calls: list[tuple[tuple[int, ...], list[int]]] = []

    def __call__(self, sample: Tensor, timestep: Tensor) -> Tensor:
        self.calls.append((tuple(sample.shape), timestep.tolist()))
        assert not torch.is_grad_enabled()
        return sample


def pairs(batch: int) -> Pairs:
    return Pairs(torch.zeros(batch, 1, 4, 4), torch.zeros(batch, dtype=torch.int64))


def test_all_engines_walk_the_same_timesteps_at_every_batch() -> None:
    engines = {"ort-int8": Recorder(), "ort-fp32": Recorder()}
    steps = measure_steps(engines, [pairs(1), pairs(2)], QUICK, timesteps=[900, 400])
    walk = [900, 400, 900, 400, 900]
    expected = [((batch, 1, 4, 4), [t] * batch) for batch in (1, 2) for t in walk]
    assert [engine.calls for engine in engines.values()] == [expected, expected]
    assert [(step.batch, step.candidates["ort-int8"].n) for step in steps] == [(1, 4), (2, 4)]


def test_progress_covers_all_batches() -> None:
    shares: list[float] = []
    measure_steps({"a": Recorder()}, [pairs(1), pairs(2)], QUICK, [0], progress=shares.append)
    assert shares == [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0]


def test_report_has_the_documented_shape() -> None:
    steps = measure_steps({"ort-int8": Recorder(), "ort-fp32": Recorder()}, [pairs(1)], QUICK, [0])
    parts = [step.to_json() for step in steps]
    report = LatencyReport(describe_environment(), QUICK, parts, [], {"ort-int8": 5}, {"ort-int8": 7}, 1).to_json()
    measured = ["steps", "loops", "size_bytes", "peak_memory_bytes", "judged_batch"]
    assert list(report) == ["environment", "protocol", *measured]
    assert report["protocol"] == {"warmup": 1, "min_rounds": 4, "min_seconds": 0}
    told = ["speedup", "speedup_spread", "valid", "reason", "rounds", "shortened"]
    assert list(report["steps"][0]) == ["batch", "candidates", *told]
    assert report["steps"][0]["valid"] is False
    assert list(report["steps"][0]["speedup"]) == ["ort-fp32"]
    json.dumps(report, allow_nan=False)


def test_a_step_in_fewer_rounds_than_were_asked_for_says_so_and_is_judged_by_what_it_has() -> None:
    asked = Protocol(min_rounds=30)
    for n, noise, valid in ((30, 0.01, True), (10, 0.01, True), (10, 0.12, False), (9, 0.01, False)):
        samples = 1 + noise * np.random.default_rng(0).standard_normal((2, n))
        latencies = {
            name: Latency.from_samples(ms * row) for name, ms, row in zip("ab", (60, 130), samples, strict=True)
        }
        told = StepLatency(16, latencies, judge(latencies), asked).to_json()
        assert (told["rounds"], told["shortened"], told["valid"]) == (n, n < 30, valid), told["reason"]
