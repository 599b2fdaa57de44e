import struct
from pathlib import Path

import numpy as np

from ptq_export.benchmarks.chart import DOTS_PER_INCH, plot_latency
from ptq_export.benchmarks.environment import describe_environment
from ptq_export.benchmarks.timing.clock import Protocol
from ptq_export.benchmarks.timing.latency import LatencyReport, StepLatency
from ptq_export.benchmarks.timing.stats import Latency, judge


def test_chart_is_a_png_for_twice_the_density_and_nothing_else_stays(tmp_path: Path) -> None:
    noise = 1 + 0.02 * np.abs(np.random.default_rng(0).standard_normal(20))
    steps = []
    for batch in (1, 16):
        latencies = {name: Latency.from_samples(ms * batch * noise) for name, ms in (("int8", 60), ("fp32", 130))}
        steps.append(StepLatency(batch, latencies, judge(latencies), Protocol()).to_json())
    report = LatencyReport(describe_environment(), Protocol(), steps, [], {}, {}, 1)
    plot_latency(report.to_json(), tmp_path / "latency.png")
    data = (tmp_path / "latency.png").read_bytes()
    width, height = struct.unpack(">II", data[16:24])
    assert data[1:4] == b"PNG"
    assert width == round(7.6 * DOTS_PER_INCH)
    assert 600 < height < width
    assert [path.name for path in tmp_path.iterdir()] == ["latency.png"]
