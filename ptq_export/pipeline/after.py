"""What one does with a finished run: time it again, sample from it, verify it where it will serve, inspect, compare."""

from dataclasses import fields
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ptq_export.artifacts import describe_file, read_json, sha256_file, write_json
from ptq_export.benchmarks.parity import local_parity
from ptq_export.calibrators.quantise import quantised_modules, restore
from ptq_export.calibrators.sites import find_sites, find_units
from ptq_export.checkpoints import load_checkpoint
from ptq_export.denoiser import NoiseSchedule
from ptq_export.engines.load import load_engine
from ptq_export.engines.ort import run_graph
from ptq_export.errors import GateFailed, InputError
from ptq_export.graph.audit import check_codes
from ptq_export.graph.single_file import load_model
from ptq_export.options import Options
from ptq_export.pipeline.folder import RunFolder
from ptq_export.pipeline.latency import measure_latency
from ptq_export.pipeline.proofs import any_batch
from ptq_export.pipeline.stages import QUANTISED, Job, Progress, int8_file, open_job
from ptq_export.report import build_report
from ptq_export.report.images import sample_grid
from ptq_export.sampling import initial_noise, make_scheduler, sample_loop

__all__ = ["bench", "compare", "inspect", "sample", "verify"]


def bench(run: Path, progress: Progress) -> dict[str, Any]:
    """Measure the latency of a run again, on this machine; its latency files, manifest and report follow."""
    manifest = _manifest(run)
    latency = measure_latency(_reopen(run, progress))
    for name in ("latency.json", "latency.png"):
        manifest["artefacts"][name] = describe_file(run / name)
    step = latency["steps"][0]
    manifest["verdict"] |= {"speedup": step["speedup"]["ort-fp32"], "valid": step["valid"]}
    write_json(run / "manifest.json", manifest)
    build_report(run)
    return latency


def sample(
    run: Path, picture: Path, count: int, steps: int, sampler: str, seed: int, progress: Progress
) -> dict[str, Any]:
    """Draw `count` samples from the engine and write them as one grid picture (PNG)."""
    manifest = _manifest(run)
    schedule = NoiseSchedule(**manifest["denoiser"]["schedule"])
    scheduler = make_scheduler(schedule, sampler)
    engine = load_engine(run)
    noise = initial_noise((count, *engine.sample_shape), seed)
    progress.stage(f"{count} samples, {steps} {sampler} steps", steps)
    images = sample_loop(any_batch(engine), scheduler, noise, steps, lambda _: progress.advance(), seed)
    sample_grid(images.double().numpy(), picture)
    return {"picture": str(picture), "samples": count, "sampler": sampler, "steps": steps, "seed": seed}


def verify(run: Path, progress: Progress) -> dict[str, Any]:
    """Identity, hashes, codes and local parity again, on the machine that will serve the engine.

    Raises:
        GateFailed: a file is damaged, or the engine differs from the simulation here.
    """
    manifest = _manifest(run)
    progress.stage("hashes", len(manifest["artefacts"]))
    for name, entry in manifest["artefacts"].items():
        found = sha256_file(run / name) if (run / name).is_file() else "absent"
        if found != entry["sha256"]:
            raise GateFailed(f"{name} is damaged: sha256 {found}, the manifest says {entry['sha256']}", "copy it again")
        progress.advance()
    engine = load_engine(run)
    job = _reopen(run, progress)
    simulation = job.subject.module
    units = find_units(simulation, find_sites(job.subject))
    state = job.folder.load_tensors(QUANTISED)
    assert state is not None, "its hash was just checked"
    restore(simulation, state)
    graph = load_model(run / int8_file(job.target))
    layers = quantised_modules(simulation)
    check_codes(graph, layers)
    modules = dict.fromkeys(name for unit in units for name in (*unit.sites, unit.name))
    noise = initial_noise((4, *engine.sample_shape), 0)
    times = torch.linspace(0, job.denoiser.schedule.num_train_timesteps - 1, 4).long()
    progress.stage("parity, layer by layer", None)
    rows = local_parity(simulation, graph, modules, run_graph, noise, times)
    differing = [row.block for row in rows if not row.ok]
    if differing:
        raise GateFailed(f"the engine differs from the simulation in {', '.join(differing)}", "make the run again here")
    return {
        "run": str(run),
        "files": len(manifest["artefacts"]),
        "layers_with_equal_codes": len(layers),
        "parity": len(rows),
    }


def inspect(path: Path) -> dict[str, Any]:
    """What a run folder, an ONNX file or a checkpoint holds."""
    if (path / "manifest.json").is_file():
        manifest = _manifest(path)
        keys = ("command", "created", "target", "denoiser", "scheme", "verdict", "versions", "artefacts")
        return {key: manifest[key] for key in keys}
    if path.suffix == ".onnx":
        return _inspect_onnx(path)
    source = load_checkpoint(str(path)).source
    return {field.name: getattr(source, field.name) for field in fields(source)}


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Two runs side by side: the options in which they differ, and the figures of both."""
    a, b = _manifest(first), _manifest(second)
    keys = sorted({*a["options"], *b["options"]} - {"out"})
    options = {
        key: [a["options"].get(key), b["options"].get(key)]
        for key in keys
        if a["options"].get(key) != b["options"].get(key)
    }
    figures = ("speedup", "psnr_db", "median_sqnr_db", "int8_layers")
    return {
        "options": options,
        "same_checkpoint": a["denoiser"]["sha256"] == b["denoiser"]["sha256"],
        "figures": {key: [a["verdict"][key], b["verdict"][key]] for key in figures},
    }


def _inspect_onnx(path: Path) -> dict[str, Any]:
    model = load_model(path)
    operators: dict[str, int] = {}
    for node in model.graph:
        operators[node.op_type] = operators.get(node.op_type, 0) + 1
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    weights: dict[str, int] = {}
    for tensor in tensors:
        weights[str(tensor.dtype)] = weights.get(str(tensor.dtype), 0) + int(np.prod(tensor.shape.numpy()))
    return {
        "inputs": {value.name: str(value.shape) for value in model.graph.inputs},
        "outputs": {value.name: str(value.shape) for value in model.graph.outputs},
        "opset": model.opset_imports[""],
        "operators": dict(sorted(operators.items(), key=lambda item: -item[1])),
        "weights": weights,
        "metadata": dict(model.metadata_props),
        "sha256": sha256_file(path),
    }


def _manifest(run: Path) -> dict[str, Any]:
    if not (run / "manifest.json").is_file():
        raise InputError(f"{run} is not a finished run: it has no manifest.json", "finish it with the same command")
    return read_json(run / "manifest.json")


def _reopen(run: Path, progress: Progress) -> Job:
    manifest = _manifest(run)
    known = {field.name for field in fields(Options)}
    values = {key: value for key, value in manifest["options"].items() if key in known}
    options = Options(**cast(Any, values | {"out": run}))
    denoiser = load_checkpoint(options.ckpt, options.resolution)
    if denoiser.source.sha256 != manifest["denoiser"]["sha256"]:
        raise InputError(f"{options.ckpt} is not the checkpoint that {run} was made from", "put the original file back")
    folder = RunFolder(run, read_json(run / "request.json"))
    return open_job(options, denoiser, folder, progress)
