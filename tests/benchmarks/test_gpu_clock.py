"""The GPU's clock on an engine whose times are known: figures, warnings, and the verdict of the CPU's clock."""

from collections.abc import Callable, Iterator, Mapping
from itertools import count, cycle
from typing import Any

import numpy as np
import pytest
import torch
from exported_net import inputs_of

from ptq_export.benchmarks.timing.clock import Protocol
from ptq_export.benchmarks.timing.gpu_clock import GpuStep, Timed, measure_gpu_steps
from ptq_export.benchmarks.timing.stats import Latency
from ptq_export.engines.base import DeviceTiming, GpuEngine, Signature
from ptq_export.engines.exported_layers import LayerRecord
from ptq_export.interface import label
from ptq_export.pairs import Pairs

PROTOCOL = Protocol(warmup=2, min_rounds=12, min_seconds=0)


class Metronome(GpuEngine):
    """Its steps take what it is told, in turns; kernel by kernel the host needs twice as long as the GPU."""

    gpu_bytes = 0
    records = True

    def __init__(self, *times_ms: float, classes: int | None = None) -> None:
        super().__init__(Signature(inputs_of((1, 2, 2), *([] if classes is None else [label(classes)])), 1))
        self.times_ms = times_ms
        self.timed: list[tuple[bool, tuple[int, ...], list[int]]] = []
        self.computed = 0

    def run(self, feeds: Mapping[str, np.ndarray]) -> np.ndarray:
        return feeds["sample"]

    def run_tensors(self, feeds: Mapping[str, torch.Tensor]) -> torch.Tensor:
        return feeds["sample"]

    def timed_step(self, graph: bool, feeds: Mapping[str, np.ndarray]) -> Callable[[], DeviceTiming]:
        sample, *conditions = feeds.values()
        self.timed.append((graph, sample.shape, [int(values[-1]) for values in conditions]))
        times: Iterator[float] = cycle(self.times_ms)

        def step() -> DeviceTiming:
            self.computed += 2  # one to keep the GPU busy, one that is timed
            compute_ms = next(times)
            return DeviceTiming(compute_ms, 0.001 if graph else 2 * compute_ms, graph and self.records)

        return step

    def step_loop(self, graph: bool, feeds: object) -> Callable[[int], None]:
        def loop(count: int) -> None:
            self.computed += count

        return loop

    def executed_layers(self, expected: object) -> list[LayerRecord]:
        return []

    def layer_times_ms(self, inputs: object) -> dict[str, float]:
        return {}

    @staticmethod
    def run_graph(model: bytes, inputs: object) -> np.ndarray:
        return np.zeros(0, np.float32)


def pairs(batch: int, **conditions: int) -> Pairs:
    given = {name: torch.full((batch,), value) for name, value in conditions.items()}
    return Pairs(torch.zeros(batch, 1, 2, 2), torch.full((batch,), 7), given)


def measured(*batches: int, **engines: Metronome) -> list[GpuStep]:
    return measure_gpu_steps(engines, [pairs(batch) for batch in batches], PROTOCOL)


def test_events_decide_and_not_the_wall_clock() -> None:
    (step,) = measured(4, int8=Metronome(2.0), fp16=Metronome(3.0), fp32=Metronome(8.0))
    found = step.step
    assert found.batch == 4 and [latency.median_ms for latency in found.candidates.values()] == [2.0, 3.0, 8.0]
    assert {name: it.speedup for name, it in found.verdict.comparisons.items()} == {"fp16": 1.5, "fp32": 4.0}
    assert found.verdict.valid and found.candidates["int8"].n == PROTOCOL.min_rounds


def test_warmup_is_left_out_of_both_times() -> None:
    (step,) = measured(1, a=Metronome(9.0, 9.0, *[1.0] * 12))
    timing = step.candidates["a"]
    assert timing.graph.compute.raw_ms == (1.0,) * 12 and timing.kernels.enqueue.raw_ms == (2.0,) * 12


def test_every_batch_is_timed_both_ways_on_the_same_inputs() -> None:
    engine = Metronome(1.0, classes=3)
    measure_gpu_steps({"a": engine}, [pairs(1, label=0), pairs(4, label=2)], PROTOCOL)
    assert engine.timed == [
        (graph, (batch, 1, 2, 2), [7, last]) for batch, last in ((1, 0), (4, 2)) for graph in (True, False)
    ]


@pytest.mark.parametrize(
    ("compute_ms", "enqueue_ms", "warnings"),
    [
        ([1.0] * 20, 0.5, ()),
        ([1.0] * 20, 0.79, ()),
        ([1.0] * 20, 0.81, ("host-bound",)),
        ([1.0, 1.04] * 10, 0.5, ("unstable",)),
        ([1.0, 1.004] * 10, 0.5, ()),
        ([1.0, 1.04] * 10, 1.5, ("host-bound", "unstable")),
    ],
)
def test_warnings(compute_ms: list[float], enqueue_ms: float, warnings: tuple[str, ...]) -> None:
    assert Timed(Latency.from_samples(compute_ms), Latency.from_samples([enqueue_ms] * 20)).warnings == warnings


def test_times_of_the_wall_clock_are_called_that_and_not_host_bound() -> None:
    latency = Latency.from_samples([10.0] * 20)
    assert Timed(latency, latency, by_events=False).warnings == ("wall clock",)


def test_a_graph_that_was_not_recorded_is_told_in_its_own_column() -> None:
    engine = Metronome(1.0)
    engine.records = False
    (step,) = measured(1, a=engine, b=Metronome(1.0))
    assert step.candidates["a"].graph.warnings == ("not recorded",)
    assert "not recorded" not in step.candidates["a"].kernels.warnings + step.candidates["b"].graph.warnings


def test_the_json_holds_percentiles_and_no_raw_samples() -> None:
    energies = count(5)
    (step,) = measure_gpu_steps({"a": Metronome(1.0)}, [pairs(1)], PROTOCOL, energy=lambda _: float(next(energies)))
    value: dict[str, Any] = step.to_json()["candidates"]["a"]
    assert set(value) == {"graph", "kernels", "with_transfers", "energy_mj"} and value["energy_mj"] == 5.0
    assert {"median_ms", "p90_ms", "p95_ms", "p99_ms"} <= set(value["graph"]["compute"])
    assert "raw_ms" not in str(value) and value["kernels"]["warnings"] == ["host-bound"]


def test_energy_is_that_of_single_steps_whatever_a_timed_step_does_besides() -> None:
    engines = {"a": Metronome(1.0), "b": Metronome(2.0)}

    def meter(loop: Callable[[int], object]) -> float:
        before = sum(engine.computed for engine in engines.values())
        loop(50)
        return 7.0 * (sum(engine.computed for engine in engines.values()) - before) / 50

    (step,) = measure_gpu_steps(engines, [pairs(1)], PROTOCOL, energy=meter)
    assert [timing.energy_mj for timing in step.candidates.values()] == [7.0, 7.0]


def test_progress_ends_at_one() -> None:
    heard: list[float] = []
    measure_gpu_steps({"a": Metronome(1.0)}, [pairs(1), pairs(4)], PROTOCOL, progress=heard.append)
    assert heard == sorted(heard) and heard[-1] == 1
