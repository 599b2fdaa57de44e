"""Charts place what the tables say."""

import math

import pytest
import synthetic_run

from ptq_export.report import axes, charts
from ptq_export.report.layermap import layer_map


def test_latency_bars_are_proportional_to_the_medians() -> None:
    step = synthetic_run.latency()["steps"][0]
    bars = charts.latency_bars(step)
    medians = [timing["median_ms"] for timing in step["candidates"].values()]
    assert [bar.style for bar in bars] == ["int8", "fp32", "unfolded"]
    assert bars[0].median_at / bars[1].median_at == pytest.approx(medians[0] / medians[1], rel=1e-3)
    assert all(0 < bar.median_at < bar.p90_at <= 100 for bar in bars)
    assert all(20 < bar.rug.count("M") <= 240 for bar in bars)


def test_sqnr_plot_keeps_every_point_inside_its_axes() -> None:
    plot = charts.sqnr_plot(synthetic_run.fidelity())
    assert [curve.style for curve in plot.curves] == ["engine", "simulation", "exact_weights"]
    assert [len(curve.points) for curve in plot.curves] == [20, 20, 20]
    assert all(0 <= x <= 100 and 0 <= y <= plot.height_px for curve in plot.curves for x, y in curve.points)
    assert plot.columns[1].tip.startswith("t = 50\nORT int8 engine: 29.")
    assert math.isclose(sum(column.width for column in plot.columns), 100, abs_tol=0.1)


def test_step_error_plot_is_logarithmic() -> None:
    fidelity = synthetic_run.fidelity() | {"timesteps": [100, 200, 300]}
    fidelity["curves"] = {"ort-int8": {"sqnr_db": [30.0] * 3, "step_error": [1e-4, 1e-3, 1e-2]}}
    heights = [y for _, y in charts.step_error_plot(fidelity).curves[0].points]
    assert heights[0] - heights[1] == pytest.approx(heights[1] - heights[2], abs=0.2)


def test_values_that_cannot_be_drawn_are_left_out() -> None:
    fidelity = synthetic_run.fidelity() | {"timesteps": [0, 50]}
    fidelity["curves"] = {"ort-int8": {"sqnr_db": [math.inf, 30.0], "step_error": [0.0, 1e-3]}}
    assert len(charts.sqnr_plot(fidelity).curves[0].points) == 1
    assert len(charts.step_error_plot(fidelity).curves[0].points) == 1


def test_parity_plot_marks_only_points_past_their_bound() -> None:
    parity = synthetic_run.parity()
    parity["global"][3] |= {"engine_db": parity["global"][3]["simulation_db"] - 0.9, "ok": False}
    plot = charts.parity_plot(parity)
    assert plot.curves[0].failed == [plot.curves[0].points[3]]
    assert plot.curves[0].failed[0][0] == 15.0
    assert plot.band.endswith("Z")


def test_histogram_counts_every_pair_once() -> None:
    timesteps = [0, 0, 0, 50, 950]
    plot = charts.histogram(timesteps)
    assert [column.tip for column in plot.columns] == [
        "t = 0 to 49\n3 pairs",
        "t = 50 to 99\n1 pair",
        "t = 950 to 999\n1 pair",
    ]
    assert plot.bars[0][3] == pytest.approx(3 * plot.bars[1][3], abs=0.2)


def test_histogram_of_many_timesteps_stays_readable() -> None:
    plot = charts.histogram(list(range(1000)))
    assert len(plot.bars) == charts.HISTOGRAM_BARS
    assert all(x + width <= 100 for x, width, _, _ in plot.bars)


@pytest.mark.parametrize(("low", "high"), [(3e-4, 4e-3), (1e-6, 1e-1), (1e-3, 1e-3)])
def test_log_ticks_enclose_the_values(low: float, high: float) -> None:
    ticks = axes.log_ticks([low, high])
    assert ticks[0] < low <= high < ticks[-1]
    assert 2 <= len(ticks) <= 8


def test_layers_are_grouped_by_block_in_graph_order() -> None:
    layers = synthetic_run.layers()
    layers[20] |= {"precision": "float"}
    blocks = layer_map({"layers": layers})
    assert [block.name for block in blocks][:4] == ["conv_in", "time_embedding", "down_blocks.0", "down_blocks.1"]
    middle = next(block for block in blocks if block.name == "mid_block")
    assert (middle.int8, len(middle.cells)) == (7, 8)
    assert [cell.state for cell in middle.cells].count("broken") == 1
