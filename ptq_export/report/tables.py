"""A run's JSON files as rows of text for the terminal and the page alike; the first row holds the headers."""

import math
from collections import Counter
from collections.abc import Mapping
from statistics import median
from typing import Any

from ptq_export.report.units import (
    ABSENT,
    count,
    decibel,
    duration,
    milliseconds,
    percent,
    precision_label,
    ratio,
    sampler_label,
    signed,
    size,
)

__all__ = [
    "against_intent",
    "curve_names",
    "engine_name",
    "fidelity_table",
    "float_layers",
    "footprint_table",
    "global_parity_table",
    "gpu_table",
    "kernels_table",
    "latency_table",
    "latents_line",
    "layers_summary",
    "linears_line",
    "linears_table",
    "local_parity_table",
    "loop_table",
    "picture_line",
    "prompt_line",
    "sensitivity_table",
    "tensorrt_table",
    "timestep_table",
    "tuning_line",
    "tuning_table",
]

Json = Mapping[str, Any]
Rows = list[list[str]]
_MODELS = {"simulation": "simulation in torch", "exact_weights": "exact weights"}


def latency_table(latency: Json) -> Rows:
    """Every percentile of every candidate per batch (`latency.json`); speed is relative to the first baseline."""
    rows = [["batch", "engine", "median ms", "p90 ms", "p95 ms", "p99 ms", "min ms", "mean ms", "rounds", "speed"]]
    rows[0].append("timing")
    for step in latency["steps"]:
        verdict = "VALID" if step["valid"] else "INVALID"
        for name, timing in step["candidates"].items():
            figures = [milliseconds(timing[key]) for key in ("median_ms", "p90_ms", "p95_ms", "p99_ms", "min_ms")]
            rounds = count(timing["n"])
            if step.get("shortened"):
                rounds += f" of {count(latency['protocol']['min_rounds'])}"
            figures += [milliseconds(timing["mean_ms"]), rounds, ratio(_speed(step, name))]
            rows.append([str(step["batch"]), precision_label(name), *figures, verdict])
    return rows


def picture_line(latency: Json) -> str:
    """What a picture takes from prompt to pixels (`latency.json`, `once`); empty where it is steps alone."""
    once = latency.get("once", {})
    if not once or not latency["loops"]:
        return ""
    loop = latency["loops"][0]
    name, timing = next(iter(loop["candidates"].items()))
    loop_ms = 1e3 * timing["total_s"]
    parts = {
        "text encoder": once.get("text_encoder_ms"),
        f"{loop['steps']} {sampler_label(loop['sampler'])} steps": loop_ms,
        "decoder": once.get("decoder_ms"),
    }
    told = " + ".join(f"{milliseconds(ms)} ms {what}" for what, ms in parts.items() if ms is not None)
    whole = loop_ms + sum(once.values())
    return f"A picture of {precision_label(name)} takes {milliseconds(whole)} ms: {told}."


def latents_line(fidelity: Json) -> str:
    """Same-noise PSNR before the decoder; empty where samples are images themselves."""
    found = fidelity["psnr"].get("latents")
    told = [f"{precision_label(name)} {decibel(each['mean_db'])} dB" for name, each in (found or {}).items()]
    return f"Before the decoder the latents have a PSNR of: {', '.join(told)}." if told else ""


def prompt_line(latency: Json) -> str:
    """What is computed once per prompt, outside of the steps (`latency.json`, `prompt_ms`); empty where nothing is."""
    told = [
        f"{', '.join(f'{precision_label(name)} {milliseconds(ms)} ms' for name, ms in step['prompt_ms'].items())}"
        f" at batch {step['batch']}"
        for step in latency["steps"]
        if step.get("prompt_ms")
    ]
    return f"The prompt graph, once per prompt and in no step: {'; '.join(told)}." if told else ""


def _speed(step: Json, name: str) -> float | None:
    """Speed of a candidate in units of the first baseline's, from the measured speed-ups."""
    if not step["speedup"]:
        return None
    of_int8 = float(next(iter(step["speedup"].values())))
    return of_int8 / float(step["speedup"].get(name, 1.0))


def gpu_table(latency: Json) -> Rows:
    """What only a GPU's clock tells (`latency.json`, `gpu`): medians of a step as one CUDA graph, kernel by kernel with
    the host's time to ask for it, and with transfers."""
    rows = [
        ["batch", "engine", "CUDA graph ms", "kernels ms", "enqueue ms", "with transfers ms", "mJ per step", "note"]
    ]
    for step in latency["gpu"]:
        for name, timing in step["candidates"].items():
            graph, kernels = timing["graph"], timing["kernels"]
            figures = [graph["compute"], kernels["compute"], kernels["enqueue"], timing["with_transfers"]]
            notes = [f"{kind}: {', '.join(it['warnings'])}" for kind, it in (("graph", graph), ("kernels", kernels))]
            told = [note for note in notes if not note.endswith(": ")]
            row = [*(milliseconds(figure["median_ms"]) for figure in figures), milliseconds(timing["energy_mj"])]
            rows.append([str(step["batch"]), precision_label(name), *row, "; ".join(told) or ABSENT])
    return rows


def loop_table(latency: Json) -> Rows:
    """The whole sampling loop, end to end, and how much of it is not the engine (`latency.json`, `loops`)."""
    rows = [["sampler", "steps", "batch", "engine", "total s", "per step ms", "outside the engine"]]
    for loop in latency["loops"]:
        where = [sampler_label(loop["sampler"]), str(loop["steps"]), str(loop["batch"])]
        for name, timing in loop["candidates"].items():
            figures = [f"{timing['total_s']:.3f}", milliseconds(timing["per_step_ms"])]
            rows.append([*where, precision_label(name), *figures, percent(timing["outside_share"])])
    return rows


def footprint_table(latency: Json) -> Rows:
    """Model file and peak memory per candidate (`latency.json`, `size_bytes` and `peak_memory_bytes`)."""
    files, memory = latency["size_bytes"], latency["peak_memory_bytes"]
    names = list(dict.fromkeys([*files, *memory]))
    rows = [[precision_label(name), size(files.get(name)), size(memory.get(name))] for name in names]
    return [["engine", "model file", "peak memory"], *rows]


def curve_names(fidelity: Json) -> list[str]:
    """The engine first, then the simulation and exact weights."""
    order = {"simulation": 1, "exact_weights": 2}
    return sorted(fidelity["curves"], key=lambda name: order.get(name, 0))


def engine_name(name: str) -> str:
    """What a curve of `fidelity.json` shows, in words."""
    return _MODELS.get(name, f"{precision_label(name)} engine")


def fidelity_table(fidelity: Json) -> Rows:
    """Same-noise PSNR of final samples, SQNR of eps and the largest step error, per model (`fidelity.json`)."""
    rows = [["against FP32", "PSNR dB", "worst PSNR dB", "median SQNR dB", "lowest SQNR dB", "largest step error"]]
    for name in curve_names(fidelity):
        curve = fidelity["curves"][name]
        psnr = fidelity["psnr"]["values"].get(name, {})
        sqnr_db, errors = ([value for value in curve[key] if value is not None] for key in ("sqnr_db", "step_error"))
        figures = [psnr.get("mean_db"), psnr.get("min_db")]
        figures += [median(sqnr_db) if sqnr_db else None, min(sqnr_db, default=None)]
        rows.append([engine_name(name), *map(decibel, figures), percent(max(errors, default=None))])
    return rows


def timestep_table(fidelity: Json) -> Rows:
    """SQNR of eps and step error at every measured time-step (`fidelity.json`)."""
    names = curve_names(fidelity)
    rows = [["t", *(f"SQNR dB, {engine_name(name)}" for name in names)]]
    rows[0] += [f"step error, {engine_name(name)}" for name in names]
    for index, timestep in sorted(enumerate(fidelity["timesteps"]), key=lambda pair: int(pair[1])):
        curves = [fidelity["curves"][name] for name in names]
        sqnr = [decibel(curve["sqnr_db"][index]) for curve in curves]
        rows.append([str(timestep), *sqnr, *(percent(curve["step_error"][index]) for curve in curves)])
    return rows


def tensorrt_table(tensorrt: Json) -> Rows:
    """What was checked without the device (`tensorrt.json`)."""
    findings = tensorrt["findings"]
    rows = [["check", "result"], [f"{len(tensorrt['rules'])} rules of TensorRT", _counted(findings)]]
    rows += [[f"{found['rule']}: {found['node']}", f"{found['seen']}. {found['reason']}"] for found in findings]
    for package, plan in tensorrt["plans"].items():
        rows.append([package, f"accepted by the {_builder(package, plan)} parser and builder: {_stored(plan)}"])
    rows += [[package, refusal] for package, refusal in tensorrt["refusals"].items()]
    return rows if tensorrt["plans"] or tensorrt["refusals"] else [*rows, ["builder", "none has tried the graph"]]


def _builder(package: str, plan: Json) -> str:
    """`TensorRT-RTX 1.7` for the package tensorrt_rtx 1.7.1.116."""
    name = {"tensorrt_rtx": "TensorRT-RTX", "tensorrt": "TensorRT"}.get(package, package)
    return f"{name} {'.'.join(plan['version'].split('.')[:2])}"


def _stored(plan: Json) -> str:
    """The plan's size, and the bytes that one int8 weight takes in it where they were looked for."""
    told, weights = f"a plan of {size(plan['size_bytes'])}", plan.get("weights")
    if weights is None:
        return told
    found, per_weight = weights["as_int8"] + weights["as_float16"], weights["bytes_per_weight"]
    if not found or per_weight is None:
        return f"{told}; none of its {weights['count']:,} int8 weights was found there"
    unit = "byte" if per_weight == 1 else "bytes"
    return f"{told}, {per_weight:.2f} {unit} per int8 weight ({found:,} of {weights['count']:,} found there)"


def _counted(findings: list[Json]) -> str:
    errors = sum(found["severity"] == "error" for found in findings)
    return f"{errors} errors, {len(findings) - errors} warnings" if findings else "no finding"


def against_intent(layer: Json) -> bool:
    """Whether a layer runs in float although int8 was intended (an entry of `layers.json`)."""
    return bool(layer["precision"] == "float" != layer["intended"])


def layers_summary(layers: Json) -> Rows:
    """Layers per operator, as the engine's own graph runs them (`layers.json`)."""
    rows = [["operator", "layers", "run int8", "run float", "float against intent"]]
    operators = sorted({layer["op"] for layer in layers["layers"]})
    for operator in [*operators, "all"]:
        group = [layer for layer in layers["layers"] if operator in (layer["op"], "all")]
        int8 = sum(layer["precision"] == "int8" for layer in group)
        broken = sum(map(against_intent, group))
        rows.append([operator, str(len(group)), str(int8), str(len(group) - int8), str(broken)])
    return rows


def kernels_table(layers: Json) -> Rows:
    """Layers per operator of the engine, where it names them (`layers.json`)."""
    counts = Counter(layer["executed"] for layer in layers["layers"] if layer.get("executed"))
    return [["the engine's operator", "layers"], *([name, str(count)] for name, count in counts.most_common())]


def float_layers(layers: Json) -> Rows:
    """Every layer that runs in float with its reason, those that should not first (`layers.json`)."""
    group = [layer for layer in layers["layers"] if layer["precision"] == "float"]
    group.sort(key=against_intent, reverse=True)
    rows = []
    for layer in group:
        times = [milliseconds(layer.get("ms")), _float_costs(layer, layers)]
        rows.append([layer["name"], layer["op"], layer["intended"], layer["reason"] or ABSENT, *times])
    return [["float layer", "operator", "intended", "reason", "ms", "costs ms against int8"], *rows]


def sensitivity_table(sensitivity: Json, layers: Json) -> Rows:
    """The int8 layers, the one that costs most first, and what int8 saves in each (`sensitivity.json`)."""
    rows = [["int8 layer", "alone, SQNR dB", "share of the noise", "FP32 ms", "int8 ms", "kept float, costs ms"]]
    found = {row["name"]: row for row in layers["layers"]}
    for layer in sensitivity["layers"]:
        row = found.get(layer["name"], {})
        times = [milliseconds(row.get("float_ms")), milliseconds(row.get("ms")), _float_costs(row, layers)]
        rows.append([layer["name"], decibel(layer["sqnr_db"]), percent(layer["share"]), *times])
    return rows


def _float_costs(row: Json, layers: Json) -> str:
    """Milliseconds between float and int8 in one layer: measured where it is int8 here, else as the int8 ones gain."""
    float_ms, ms = row.get("float_ms"), row.get("ms")
    if float_ms is None or ms is None:
        return ABSENT
    if row["precision"] == "int8":
        return milliseconds(float_ms - ms)
    timed = [other for other in layers["layers"] if other["precision"] == "int8" and other.get("float_ms")]
    total_ms = sum(other["float_ms"] for other in timed)
    gain = sum(other["ms"] for other in timed) / total_ms if total_ms else 1.0
    return f"about {milliseconds(ms - gain * float_ms)}"


def linears_line(linears: Json) -> str:
    """`channels balanced in 12 of 16 inputs, a step per token in 1; noise of their readers' results −3.1 dB in the
    median`, from `linears.json`; empty where there are none."""
    readings = linears["readings"]
    if not readings:
        return ""
    moved = sum(it["alpha"] is not None for it in readings)
    tokens = sum(it["by_token"] for it in readings)
    gained_db = median(_chosen_db(it) - it["sqnr_db"]["tensor"] for it in readings)
    counted = f"channels balanced in {moved} of {len(readings)} inputs, a step per token in {tokens}"
    return f"{counted}; noise of their readers' results {signed(-gained_db, '.1f')} dB in the median"


def linears_table(linears: Json) -> Rows:
    """Each tensor that int8 linears read, and what was chosen for it by the noise of their results (`linears.json`)."""
    rows = [["read by", "balanced in", "alpha", "step", "one step dB", "balanced dB", "per token dB", "noise share"]]
    for it in linears["readings"]:
        more = f" and {len(it['readers']) - 1} more" if len(it["readers"]) > 1 else ""
        chosen = [it["source"] or ABSENT, ABSENT if it["alpha"] is None else f"{it['alpha']:g}"]
        figures = [decibel(it["sqnr_db"].get(key)) for key in ("tensor", "balanced", "token")]
        step = "per token" if it["by_token"] else "one"
        rows.append([f"{it['readers'][0]}{more}", *chosen, step, *figures, percent(it.get("share"))])
    return rows


def _chosen_db(reading: Json) -> float:
    key = "token" if reading["by_token"] else "tensor" if reading["alpha"] is None else "balanced"
    return float(reading["sqnr_db"].get(key, reading["sqnr_db"]["tensor"]))


def tuning_line(tuning: Json) -> str:
    """`tuning: 2 of 31 candidates kept, 5.31 → 5.02 ms a step (1.06×, 1.05 to 1.07), each known to
    ± 0.6 %, none left, 58.1 s`, from `tuning.json`."""
    trials, left, total = tuning["trials"], tuning["not_reached"], tuning["total"]
    kept = sum(trial["kept"] for trial in trials)
    parts = [f"tuning: {kept} of {len(trials)} candidates kept"]
    if total is not None:
        pace = f"{ratio(total['speedup'])}, {_interval(total)}"
        parts.append(f"{milliseconds(total['before_ms'])} → {milliseconds(total['after_ms'])} ms a step ({pace})")
    if trials:
        margin = median((trial["high"] - trial["low"]) / (2 * trial["speedup"]) for trial in trials)
        parts.append(f"each known to ± {percent(margin)}")
    parts.append(f"{len(left)} not reached" if left else "none left")
    parts.append("measured in an earlier run" if tuning["reused"] else duration(tuning["seconds"]))
    return ", ".join(parts)


def tuning_table(tuning: Json) -> Rows:
    """Every candidate in the order in which it was tried, then those that time did not reach (`tuning.json`)."""
    rows = [["change", "layers", "before ms", "after ms", "speed", "95 %", "SQNR dB", "kept", "why"]]
    for trial in tuning["trials"]:
        figures = [milliseconds(trial["before_ms"]), milliseconds(trial["after_ms"]), ratio(trial["speedup"])]
        figures += [_interval(trial), decibel(trial["sqnr_db"]), "yes" if trial["kept"] else "no"]
        rows.append([trial["what"], str(len(trial["layers"])), *figures, trial["why"]])
    for left in tuning["not_reached"]:
        rows.append([left["what"], str(len(left["layers"])), *[ABSENT] * 5, "no", "the time was up"])
    return rows


def _interval(race: Json) -> str:
    return f"{race['low']:.2f} to {race['high']:.2f}"


def local_parity_table(parity: Json) -> Rows:
    """Each layer and block alone, engine against simulation on the same inputs, worst first (`parity.json`)."""
    rows = [["block", "kind", "SQNR dB", "at least dB", "largest step", "share off", "bound"]]
    for block in sorted(parity["local"], key=_badness):
        least = ABSENT if block["bound_db"] is None else decibel(block["bound_db"])
        figures = [decibel(block["sqnr_db"]), least, f"{block['max_steps']:.2f}", percent(block["share_off"])]
        rows.append([block["block"], block["kind"], *figures, "holds" if block["ok"] else "EXCEEDED"])
    return rows


def _badness(block: Json) -> tuple[bool, float, float]:
    """Past a bound first, then by rising SQNR (null: no error at all)."""
    sqnr_db = block["sqnr_db"]
    return bool(block["ok"]), math.inf if sqnr_db is None else float(sqnr_db), -float(block["share_off"])


def global_parity_table(parity: Json) -> Rows:
    """SQNR of engine and simulation per time-step and the bound on their difference (`parity.json`)."""
    rows = [["t", "simulation dB", "engine dB", "difference dB", "bound dB", "bound"]]
    for point in sorted(parity["global"], key=lambda point: int(point["timestep"])):
        difference = signed(point["engine_db"] - point["simulation_db"], ".2f")
        figures = [decibel(point["simulation_db"]), decibel(point["engine_db"]), difference]
        verdict = "holds" if point["ok"] else "EXCEEDED"
        rows.append([str(point["timestep"]), *figures, f"±{point['bound_db']:.2f}", verdict])
    return rows
