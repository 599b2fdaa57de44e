"""What a device's report says of its figures: the comparison, the doubts, the text."""

from typing import Any

import pytest
from on_device import program

measures, report = program("measures"), program("report")
STEADY = {"wall": {"median": 5.0, "p99": 5.5}, "gpu": {"median": 4.8, "p99": 5.0}}
FASTER = {"gpu": {"ratio": 1.4, "low": 1.3, "high": 1.5}}


def energy(per_step_mj: float, samples: int = 100) -> dict[str, Any]:
    return {"per_step_mj": per_step_mj, "above_idle_mj": None, "busy_mw": 9000, "samples": samples}


@pytest.mark.parametrize(
    ("timing", "clock", "compared", "words"),
    [
        (STEADY, (1020, 1020), FASTER, []),
        (STEADY, (1020, 1020), None, []),
        (STEADY, (306, 1020), FASTER, ["306 to 1020 MHz"]),
        (STEADY, None, FASTER, ["unknown"]),
        (STEADY | {"gpu": {"median": 4.8, "p99": 9.0}}, (1, 1), FASTER, ["int8 is unstable"]),
        (STEADY | {"wall": {"median": 9.0, "p99": 9.5}}, (1, 1), FASTER, ["int8 is host-bound"]),
        (STEADY, (1, 1), {"gpu": {"ratio": 0.8, "low": 0.7, "high": 0.9}}, ["int8 is slower than fp16"]),
        (STEADY, (1, 1), {"gpu": {"ratio": 1.01, "low": 0.9, "high": 1.1}}, ["no difference"]),
    ],
    ids=["steady", "alone", "free clock", "unknown clock", "unstable", "host-bound", "slower", "the same"],
)
def test_what_disturbs_a_comparison_is_warned_of(timing: Any, clock: Any, compared: Any, words: list[str]) -> None:
    engines = {"int8": {"latency_ms": timing, "energy": energy(1.0)}}
    found = report.warnings({"engines": engines, "fp16_over_int8": compared}, clock, [])
    assert len(found) == len(words) and all(word in text for word, text in zip(words, found, strict=True))


def test_few_power_samples_are_warned_of_behind_the_notes() -> None:
    engines = {"fp16": {"latency_ms": STEADY, "energy": energy(1.0, samples=3)}}
    found = report.warnings({"engines": engines, "fp16_over_int8": None}, (1, 1), ["the fan is off"])
    assert found == ["the fan is off", "only 3 power samples of fp16: raise --seconds"]


def test_the_comparison_is_of_time_and_of_energy() -> None:
    timings = {name: {"gpu": [value] * 9, "wall": [value + 1] * 9} for name, value in (("int8", 2.0), ("fp16", 3.0))}
    found = report.compare(timings, {"int8": energy(4.0), "fp16": energy(5.0)})
    assert (found["gpu"]["ratio"], found["wall"]["ratio"], found["energy"]) == (1.5, 1.3333, 1.25)
    assert report.compare(timings, {"int8": energy(4.0), "fp16": None})["energy"] is None
    assert report.compare({"int8": timings["int8"]}, {}) is None


def test_the_text_names_the_device_the_percentiles_the_ratios_and_the_rails() -> None:
    row = measures.summary([1.0, 2.0, 4.0])
    entry = {"latency_ms": {"gpu": row}, "launch": "CUDA graph", "energy": energy(100.0)}
    entries = dict.fromkeys(("int8", "fp16"), entry)
    span = {"ratio": 1.4, "low": 1.31, "high": 1.52}
    value = {
        "device": {"board": "Orin", "l4t": "36.4.3", "tensorrt": "10.3.0"},
        "power_mode": "15W",
        "gpu_clock_mhz": (1020, 1020),
        "batch": 1,
        "engines": entries,
        "fp16_over_int8": {"gpu": span, "wall": span, "energy": 1.25},
        "power": {"monitor": "tegrastats", "rails": ["VDD_GPU_SOC", "VDD_CPU_CV"]},
        "warnings": ["the fan is off"],
    }
    text = "\n".join(report.lines(value))
    for part in (
        "Orin, L4T 36.4.3, TensorRT 10.3.0, power mode 15W, GPU 1020-1020 MHz",
        "int8 and fp16 in turns, CUDA graph, milliseconds",
        "p95",
        "2.000",
        "int8 is 1.40 times as fast as fp16 on the GPU (95 %: 1.31 to 1.52)",
        "energy per step, fp16: 100.0 mJ",
        "fp16 takes 1.25 times the energy of int8",
        "module: VDD_GPU_SOC + VDD_CPU_CV, by tegrastats",
    ):
        assert part in text
    assert text.endswith("warning: the fan is off")
    alone = value | {"engines": {"int8": entries["int8"] | {"energy": None}}, "fp16_over_int8": None, "power": None}
    assert not any(word in "\n".join(report.lines(alone)) for word in ("fp16", "energy", "module"))
