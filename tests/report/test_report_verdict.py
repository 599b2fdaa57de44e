"""The verdict names its reasons and never flatters."""

from typing import Any

import pytest
import synthetic_run

from ptq_export.report.verdict import gains, headline, judge, judged_step, random_weights, sentence


def manifest_with(**changes: Any) -> dict[str, Any]:
    manifest = synthetic_run.manifest()
    manifest["verdict"] |= changes
    return manifest


def test_failed_proof_outranks_noisy_timing_and_both_are_told() -> None:
    latency = synthetic_run.latency()
    latency["steps"][1] |= {"valid": False, "reason": "p90 is 31 % above the median"}
    manifest = manifest_with(ok=False, valid=False, failures=["parity: mid_block"])
    verdict = judge(manifest, latency)
    assert verdict.badge == "FAIL"
    assert verdict.reasons == ("parity: mid_block", "timing at batch 16: p90 is 31 % above the median")


def test_a_noisy_timing_alone_is_no_failure() -> None:
    verdict = judge(manifest_with(valid=False), None)
    assert (verdict.badge, verdict.reasons) == ("PROVED", ("the timing was too noisy to be trusted",))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"speedup": 0.8}, "int8 is 1.25× slower per step than ORT FP32 at 38.4 dB; "),
        ({"batch": 4}, "int8 is 1.93× faster per step of batch 4 than ORT FP32 at 38.4 dB; "),
        ({"speedup": None}, "speed was not measured; 38.4 dB; "),
        ({"psnr_db": None}, "int8 is 1.93× faster per step than ORT FP32; fidelity was not measured; "),
        (
            {"valid": False},
            "38.4 dB; 47 of 51 layers run int8; all proofs hold; int8 is 1.93× faster per step than ORT",
        ),
        ({"ok": False, "failures": ["a"]}, "47 of 51 layers run int8; 1 proof failed."),
    ],
)
def test_sentence_says_what_was_found(changes: dict[str, Any], expected: str) -> None:
    assert expected in sentence(manifest_with(**changes)["verdict"])


def test_the_headline_is_of_the_batch_that_was_judged() -> None:
    latency = synthetic_run.latency()
    parts = dict.fromkeys(("manifest", "fidelity", "layers")) | {"latency": latency | {"judged_batch": 16}}
    assert headline(parts)[0].context.split(", ")[:3][-1].startswith("batch 16")
    assert judged_step(latency)["batch"] == 1


@pytest.mark.parametrize(
    ("sqnr_db", "psnr_db", "warned"),
    [
        (14.0, 30.0, True),
        (24.9, 34.9, True),
        (24.9, None, True),
        (24.9, 35.0, False),
        (25.0, 30.0, False),
        (None, None, False),
    ],
)
def test_images_that_will_differ_are_the_first_thing_said(
    sqnr_db: float | None, psnr_db: float | None, warned: bool
) -> None:
    said = sentence(manifest_with(median_sqnr_db=sqnr_db, psnr_db=psnr_db)["verdict"])
    assert said.startswith("The images will differ from full precision's") == warned


def test_gains_state_the_margin_where_it_is_known() -> None:
    step = {"speedup": {"ort-fp32": 1.93, "ort-fp32-unfolded": 0.5}, "speedup_spread": {"ort-fp32": {"margin": 0.012}}}
    assert gains(step) == "1.93× faster than ORT FP32 (± 1.2 %), 2.00× slower than ORT FP32 unfolded"


@pytest.mark.parametrize(
    ("spec", "note", "expected"),
    [
        ("random:ddim-cifar10", "", True),
        ("model.pt", "Weights are RANDOM", True),
        ("model.pt", "trained with random crops", False),
        ("random_name.pt", "EMA weights", False),
    ],
)
def test_random_weights_are_recognised(spec: str, note: str, expected: bool) -> None:
    assert random_weights({"spec": spec, "notes": [note]}) is expected


def test_headline_figures_carry_their_context() -> None:
    parts = {name: getattr(synthetic_run, name)() for name in ("manifest", "latency", "fidelity")}
    figures = headline(parts | {"layers": {"layers": synthetic_run.layers()}})
    assert [figure.value for figure in figures] == ["1.93×", "38.4 dB", "34.1 dB", "47 / 51", "6.91 MB"]
    assert figures[0].context == "6.37 → 3.31 ms, median, batch 1"
    assert figures[4].context == "3.5× smaller than 24.3 MB"


def test_headline_without_measurements_shows_dashes() -> None:
    figures = headline(dict.fromkeys(("manifest", "latency", "fidelity", "layers")))
    assert {figure.value for figure in figures} == {"–"}


@pytest.mark.parametrize(("prediction", "name"), [("epsilon", "eps"), ("sample", "x₀"), ("v_prediction", "v")])
def test_headline_names_what_the_network_predicts(prediction: str, name: str) -> None:
    manifest = synthetic_run.manifest()
    manifest["denoiser"] = {**manifest["denoiser"], "schedule": {"prediction_type": prediction}}
    figures = headline(dict.fromkeys(("latency", "fidelity", "layers")) | {"manifest": manifest})
    assert f"Median SQNR of {name}" in [figure.title for figure in figures]
