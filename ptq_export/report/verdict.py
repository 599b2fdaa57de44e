"""The verdict of a run in one sentence, its badge, and the five figures that everyone asks for first."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptq_export.report.tables import against_intent
from ptq_export.report.units import ABSENT, decibel, milliseconds, percent, precision_label, ratio, sampler_label, size

__all__ = [
    "Figure",
    "Verdict",
    "gains",
    "headline",
    "judge",
    "judged_step",
    "output_name",
    "random_weights",
    "sentence",
]

Json = Mapping[str, Any]
CLOSE_DB = 25.0
"""Below it the noise of int8 in a prediction is more than 5.6 % of it, which the steps of a sampler add up."""
SAME_DB = 35.0
"""From it on the pictures of one noise look the same, whatever the noise in a prediction, which guidance magnifies."""


@dataclass(frozen=True)
class Verdict:
    """`badge` is PASS, FAIL, PROVED (proofs hold, timing too noisy), UNTIMED (proofs hold) or UNFINISHED."""

    badge: str
    sentence: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Figure:
    """A headline figure and the line of context below it."""

    title: str
    value: str
    context: str


def judge(manifest: Json | None, latency: Json | None) -> Verdict:
    """The verdict of `manifest.json`; a run without one has not finished."""
    if manifest is None:
        return Verdict("UNFINISHED", "This run has not finished.", ("manifest.json, written last, is missing",))
    verdict = manifest["verdict"]
    noisy = [
        f"timing at batch {step['batch']}: {step['reason'] or 'too noisy'}"
        for step in (latency or {}).get("steps", [])
        if not step["valid"]
    ]
    if not noisy:
        noisy = ["the timing was too noisy to be trusted" if verdict["speedup"] else "latency was not measured"]
    timed = {True: "PASS", False: "PROVED", None: "UNTIMED"}
    badge = timed[verdict["valid"]] if verdict["ok"] else "FAIL"
    reasons = [*verdict["failures"], *([] if verdict["valid"] else noisy)]
    return Verdict(badge, sentence(verdict), tuple(reasons))


def judged_step(latency: Json) -> Json:
    """The entry of `steps` in `latency.json` that the verdict is about: that of the `judged_batch`, or the first."""
    steps: list[Json] = latency["steps"]
    return next((step for step in steps if step["batch"] == latency.get("judged_batch")), steps[0])


def sentence(verdict: Json) -> str:
    """`int8 is 1.93× faster per step than FP32 at 38.4 dB; 46 of 51 layers run int8; all proofs hold.`

    A timing that does not count comes last, behind what holds. Where the prediction is less than `CLOSE_DB` from full
    precision's, and the images less than `SAME_DB`, a sentence on the images comes first.
    """
    pace = "speed was not measured"
    if verdict["speedup"]:
        batch = f" of batch {verdict['batch']}" if verdict.get("batch") else ""
        pace = f"int8 is {_pace(verdict['speedup'])} per step{batch} than {precision_label(verdict['baseline'])}"
    fidelity = "fidelity was not measured" if verdict["psnr_db"] is None else f"{decibel(verdict['psnr_db'])} dB"
    noisy = verdict["speedup"] and not verdict["valid"]
    parts = [fidelity] if noisy else [pace, fidelity]
    if verdict["speedup"] and verdict["psnr_db"] is not None and not noisy:
        parts = [f"{pace} at {fidelity}"]
    run = "run int8" if verdict.get("layers_read_from", "engine") == "engine" else "are int8 in the graph"
    parts.append(f"{verdict['int8_layers']} of {verdict['layers']} layers {run}")
    failed = len(verdict["failures"])
    parts.append("all proofs hold" if verdict["ok"] else f"{failed or 'some'} proof{'' if failed == 1 else 's'} failed")
    if noisy:
        parts.append(f"{pace}, in a timing too noisy to count")
    return _warning(verdict["median_sqnr_db"], verdict["psnr_db"]) + "; ".join(parts) + "."


def _warning(median_sqnr_db: float | None, psnr_db: float | None) -> str:
    if median_sqnr_db is None or median_sqnr_db >= CLOSE_DB or (psnr_db is not None and psnr_db >= SAME_DB):
        return ""
    told = f"median SQNR of the prediction is {decibel(median_sqnr_db)} dB"
    return f"The images will differ from full precision's: {told}. "


def _pace(speedup: float) -> str:
    return f"{ratio(speedup)} faster" if speedup >= 1 else f"{ratio(1 / speedup)} slower"


def gains(step: Json) -> str:
    """One batch in words: `1.93× faster than FP32 (± 1.2 %), 2.04× faster than FP32 unfolded (± 1.3 %)`."""
    margins = {name: f" (± {percent(spread['margin'])})" for name, spread in step.get("speedup_spread", {}).items()}
    return ", ".join(
        f"{_pace(value)} than {precision_label(name)}{margins.get(name, '')}" for name, value in step["speedup"].items()
    )


def random_weights(denoiser: Json) -> bool:
    """Whether the weights were never trained, so that images and fidelity mean nothing."""
    return denoiser["spec"].startswith("random:") or any(
        re.search(r"\brandom\b", note, re.I) and re.search(r"\bweights?\b", note, re.I) for note in denoiser["notes"]
    )


def output_name(manifest: Json | None) -> str:
    """What the network predicts: eps, x_0, v or a flow's velocity."""
    schedule = {} if manifest is None else manifest["denoiser"].get("schedule", {})
    return {"sample": "x₀", "v_prediction": "v", "flow": "velocity"}.get(schedule.get("prediction_type", ""), "eps")


def headline(parts: Mapping[str, Json | None]) -> list[Figure]:
    """Speed, same-noise PSNR, SQNR, int8 layers and model size; absent measurements show as a dash."""
    verdict = (parts["manifest"] or {}).get("verdict", {})
    layers = f"{verdict['int8_layers']} / {verdict['layers']}" if verdict else ABSENT
    predicted = f"Median SQNR of {output_name(parts['manifest'])}"
    return [
        Figure("Speed per step", ratio(verdict.get("speedup")), _speed_context(parts["latency"])),
        Figure("Same-noise PSNR", _with_unit(verdict.get("psnr_db")), _psnr_context(parts["fidelity"])),
        Figure(predicted, _with_unit(verdict.get("median_sqnr_db")), _sqnr_context(parts["fidelity"])),
        Figure("Layers in int8", layers, _layers_context(parts["layers"])),
        _size_figure(parts["latency"]),
    ]


def _with_unit(value: float | None) -> str:
    return ABSENT if value is None else f"{decibel(value)} dB"


def _speed_context(latency: Json | None) -> str:
    if latency is None or not latency["steps"]:
        return "not measured"
    step = judged_step(latency)
    medians = [milliseconds(timing["median_ms"]) for timing in step["candidates"].values()]
    return f"{' → '.join(medians[1::-1])} ms, median, batch {step['batch']}{'' if step['valid'] else ', INVALID'}"


def _psnr_context(fidelity: Json | None) -> str:
    if fidelity is None:
        return "not measured"
    psnr = fidelity["psnr"]
    return f"{psnr['samples']} samples, {psnr['steps']} {sampler_label(psnr['sampler'])} steps"


def _sqnr_context(fidelity: Json | None) -> str:
    if fidelity is None:
        return "not measured"
    return f"{len(fidelity['timesteps'])} time-steps, {fidelity['pairs_per_timestep']} pairs each"


def _layers_context(layers: Json | None) -> str:
    if layers is None:
        return "not read back"
    broken = sum(map(against_intent, layers["layers"]))
    return f"{broken} against intent" if broken else f"as intended, read from the {layers.get('read_from', 'engine')}"


def _size_figure(latency: Json | None) -> Figure:
    if latency is None or not latency["size_bytes"]:
        return Figure("Model size", ABSENT, "not measured")
    sizes = list(latency["size_bytes"].values())
    context = f"{sizes[1] / sizes[0]:.1f}× smaller than {size(sizes[1])}" if len(sizes) > 1 else "on disk"
    return Figure("Model size", size(sizes[0]), context)
