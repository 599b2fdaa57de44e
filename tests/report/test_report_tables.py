"""The rows that the terminal and the page share."""

import pytest
import synthetic_run

from ptq_export.report import tables, units


def test_latency_rows_state_percentiles_and_speed_relative_to_fp32() -> None:
    latency = synthetic_run.latency()
    candidates = latency["steps"][0]["candidates"]
    for name, median_ms in {"ort-int8": 2.0, "ort-fp32": 4.0, "ort-fp32-unfolded": 5.0}.items():
        candidates[name]["median_ms"] = median_ms
    latency["steps"][0] |= {"speedup": {"ort-fp32": 2.0, "ort-fp32-unfolded": 2.5}, "valid": False}
    rows = tables.latency_table(latency)
    assert rows[0][:3] == ["batch", "engine", "median ms"]
    assert [(row[1], row[2], row[9], row[10]) for row in rows[1:4]] == [
        ("ORT int8", "2.00", "2.00×", "INVALID"),
        ("ORT FP32", "4.00", "1.00×", "INVALID"),
        ("ORT FP32 unfolded", "5.00", "0.80×", "INVALID"),
    ]
    assert len(rows) == 7
    assert {len(row) for row in rows} == {11}


def test_gpu_rows_state_both_ways_to_launch_and_what_to_doubt() -> None:
    def timed(compute_ms: float, enqueue_ms: float, *warnings: str) -> dict[str, object]:
        figures = {"compute": {"median_ms": compute_ms}, "enqueue": {"median_ms": enqueue_ms}}
        return figures | {"warnings": list(warnings)}

    timing = {"graph": timed(0.5, 0.01), "kernels": timed(0.9, 1.1, "host-bound", "unstable")}
    timing |= {"with_transfers": {"median_ms": 1.25}, "energy_mj": 80.0}
    rows = tables.gpu_table({"gpu": [{"batch": 4, "candidates": {"trt-int8": timing}}]})
    shown = ["4", "TensorRT int8", "0.500", "0.900", "1.10", "1.25", "80.0", "kernels: host-bound, unstable"]
    assert rows[1] == shown and len(rows[0]) == len(shown)


def test_loop_and_footprint_rows() -> None:
    latency = synthetic_run.latency()
    assert tables.loop_table(latency)[3] == ["DPM-Solver++", "20", "1", "ORT int8", "0.070", "3.48", "4.8 %"]
    assert tables.footprint_table(latency)[1:3] == [
        ["ORT int8", "6.91 MB", "182 MB"],
        ["ORT FP32", "24.3 MB", "231 MB"],
    ]


def test_a_batch_in_fewer_rounds_than_were_asked_for_shows_both() -> None:
    latency = synthetic_run.latency()
    rounds = latency["steps"][1]["candidates"]["ort-int8"]["n"]
    latency["steps"][1]["shortened"] = True
    rows = {(row[0], row[1]): row[8] for row in tables.latency_table(latency)[1:]}
    assert (rows["1", "ORT int8"], rows["16", "ORT int8"]) == (f"{rounds}", f"{rounds} of 200")


def test_fidelity_rows_put_the_engine_first_and_exact_weights_last() -> None:
    fidelity = synthetic_run.fidelity()
    fidelity["curves"] = dict(reversed(fidelity["curves"].items()))
    del fidelity["psnr"]["values"]["exact_weights"]
    rows = tables.fidelity_table(fidelity)
    assert [row[0] for row in rows[1:]] == ["ORT int8 engine", "simulation in torch", "exact weights"]
    assert rows[1][1:3] == ["38.4", "33.2"]
    assert rows[3][1:3] == ["–", "–"]


def test_timestep_rows_are_sorted_by_time() -> None:
    fidelity = synthetic_run.fidelity()
    fidelity["timesteps"] = fidelity["timesteps"][::-1]
    rows = tables.timestep_table(fidelity)
    assert [row[0] for row in rows[1:4]] == ["0", "50", "100"]
    assert rows[1][1] == units.decibel(fidelity["curves"]["ort-int8"]["sqnr_db"][-1])


def test_the_engines_operators_are_counted_where_it_names_them() -> None:
    layers = {"layers": synthetic_run.layers()}
    assert tables.kernels_table(layers) == [["the engine's operator", "layers"]]
    for layer, name in zip(layers["layers"], ["WinogradConv", "QLinearConv", "WinogradConv", ""], strict=False):
        layer["executed"] = name
    assert tables.kernels_table(layers)[1:] == [["WinogradConv", "2"], ["QLinearConv", "1"]]


def test_layer_rows_count_and_put_broken_intents_first() -> None:
    layers = {"layers": synthetic_run.layers()}
    layers["layers"][20] |= {"precision": "float", "reason": "fan-out"}
    assert tables.layers_summary(layers)[-1] == ["all", "51", "46", "5", "1"]
    rows = tables.float_layers(layers)
    assert rows[1][:4] == ["unet.mid_block.attentions.0.to_q", "Gemm", "int8", "fan-out"]
    assert [row[2] for row in rows[2:]] == ["float"] * 4


def test_float_costs_what_the_int8_layers_gain() -> None:
    def layer(name: str, precision: str, ms: float, fp32_ms: float) -> dict[str, object]:
        row = {"name": name, "op": "Conv", "precision": precision, "intended": precision, "reason": ""}
        return row | {"ms": ms, "float_ms": fp32_ms}

    layers = {"layers": [layer("a", "int8", 1.0, 2.0), layer("b", "int8", 2.0, 4.0), layer("c", "float", 3.5, 3.0)]}
    assert tables.float_layers(layers)[1][4:] == ["3.50", "about 2.00"]
    sensitivity = {"layers": [{"name": "b", "sqnr_db": 40.0, "share": 0.5}]}
    assert tables.sensitivity_table(sensitivity, layers)[1] == ["b", "40.0", "50 %", "4.00", "2.00", "2.00"]


def test_parity_rows_show_the_worst_first() -> None:
    parity = synthetic_run.parity()
    parity["local"][9] |= {"ok": False, "sqnr_db": 80.0}
    parity["local"][3] |= {"sqnr_db": None}
    rows = tables.local_parity_table(parity)
    assert rows[1][0] == parity["local"][9]["block"]
    assert rows[1][6] == "EXCEEDED"
    assert float(rows[2][2]) == 51.0
    assert rows[-1][0] == parity["local"][3]["block"]


def test_global_parity_rows_state_the_signed_difference() -> None:
    point = {"timestep": 50, "simulation_db": 30.0, "engine_db": 29.25, "bound_db": 0.5, "ok": False}
    rows = tables.global_parity_table({"global": [point]})
    assert rows[1] == ["50", "30.0", "29.2", "−0.75", "±0.50", "EXCEEDED"]


def test_inputs_of_linears_are_one_line_and_a_table_of_what_was_chosen() -> None:
    found = {"tensor": 30.0, "balanced": 33.5, "token": 40.0}
    first = {"readers": ["a", "b"], "source": "n", "alpha": 0.5, "by_token": False, "sqnr_db": found, "share": None}
    second = first | {"readers": ["c"], "source": "", "alpha": None, "by_token": True, "share": 0.031}
    linears = {"readings": [first, second]}
    line = "channels balanced in 1 of 2 inputs, a step per token in 1"
    line += "; noise of their readers' results −6.8 dB in the median"
    assert tables.linears_line(linears) == line and tables.linears_line({"readings": []}) == ""
    headers, *rows = tables.linears_table(linears)
    assert rows[0] == ["a and 1 more", "n", "0.5", "one", "30.0", "33.5", "40.0", "–"]
    assert rows[1] == ["c", "–", "–", "per token", "30.0", "33.5", "40.0", "3.1 %"]
    assert {len(row) for row in rows} == {len(headers)}


def test_tuning_is_one_line_and_a_table_of_what_was_tried_and_what_was_not() -> None:
    race = {"before_ms": 5.0, "after_ms": 4.0, "speedup": 1.25, "low": 1.2, "high": 1.3}
    kept = race | {"what": "linears", "layers": ["a", "b"], "sqnr_db": 30.0, "kept": True, "why": "faster"}
    lost = race | {"what": "a", "layers": ["a"], "sqnr_db": None, "kept": False, "why": "slower"}
    left = {"what": "3x3 convolutions", "layers": ["c"], "expected_ms": -1.0}
    tuning = {"trials": [kept, lost], "not_reached": [left], "total": race, "seconds": 61.0, "reused": False}
    line = "tuning: 1 of 2 candidates kept, 5.00 → 4.00 ms a step (1.25×, 1.20 to 1.30)"
    line += ", each known to ± 4.0 %, 1 not reached, 1 min 01 s"
    assert tables.tuning_line(tuning) == line
    nothing = tables.tuning_line(tuning | {"trials": [lost], "total": None, "not_reached": [], "reused": True})
    assert nothing == "tuning: 0 of 1 candidates kept, each known to ± 4.0 %, none left, measured in an earlier run"
    headers, *rows = tables.tuning_table(tuning)
    assert rows[0] == ["linears", "2", "5.00", "4.00", "1.25×", "1.20 to 1.30", "30.0", "yes", "faster"]
    assert rows[1][6:] == ["–", "no", "slower"]
    assert rows[2] == ["3x3 convolutions", "1", *["–"] * 5, "no", "the time was up"]
    assert {len(row) for row in rows} == {len(headers)}


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.size(9_812_000), "9.81 MB"),
        (units.size(1_250_000_000), "1.25 GB"),
        (units.size(312), "312 B"),
        (units.milliseconds(0.8123), "0.812"),
        (units.milliseconds(1204.4), "1204"),
        (units.percent(0.0), "0 %"),
        (units.percent(0.000123), "0.012 %"),
        (units.duration(0.42), "0.42 s"),
        (units.duration(59.97), "1 min 00 s"),
        (units.duration(3905), "1 h 05 min"),
        (units.decibel(float("inf")), "∞"),
        (units.decibel(150.0), "∞"),
        (units.decibel(None), "–"),
        (units.precision_label("ort-trt-fp16"), "ORT TensorRT FP16"),
        (units.precision_label("ort-fp32-unfolded"), "ORT FP32 unfolded"),
        (units.precision_label("other"), "other"),
    ],
)
def test_figures_are_rounded_for_reading(shown: str, expected: str) -> None:
    assert shown == expected


@pytest.mark.parametrize(
    ("as_int8", "as_float16", "per_weight", "said"),
    [
        (4000, 0, 1.0, "1.00 byte per int8 weight (4,000 of 4,000 found there)"),
        (0, 3000, 2.0, "2.00 bytes per int8 weight (3,000 of 4,000 found there)"),
        (0, 0, None, "none of its 4,000 int8 weights was found there"),
    ],
)
def test_a_plan_is_said_to_be_accepted_and_what_an_int8_weight_takes_in_it(
    as_int8: int, as_float16: int, per_weight: float | None, said: str
) -> None:
    weights = {"count": 4000, "as_int8": as_int8, "as_float16": as_float16, "bytes_per_weight": per_weight}
    plans = {
        "tensorrt_rtx": {"version": "1.7.1.116", "size_bytes": 2_000_000, "weights": weights},
        "tensorrt": {"version": "10.12.0.36", "size_bytes": 2_000_000},
    }
    rows = tables.tensorrt_table({"rules": ["a"], "findings": [], "plans": plans, "refusals": {}})
    ours, own = rows[2][1], rows[3][1]
    assert ours.startswith("accepted by the TensorRT-RTX 1.7 parser and builder: a plan of ") and ours.endswith(said)
    assert own.startswith("accepted by the TensorRT 10.12 parser and builder: ") and "int8" not in own


def test_a_plan_of_an_unknown_package_or_without_a_figure_is_shown_as_it_is() -> None:
    weights = {"count": 8, "as_int8": 8, "as_float16": 0, "bytes_per_weight": None}
    plans = {"another": {"version": "1.2.3", "size_bytes": 9, "warnings": [], "weights": weights}}
    rows = tables.tensorrt_table({"rules": ["a"], "findings": [], "plans": plans, "refusals": {}})
    assert "accepted by the another 1.2 parser" in rows[2][1] and rows[2][1].endswith("weights was found there")
