"""What one does with a finished run: time it again, verify it where it will serve, inspect, compare."""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ptq_export.artifacts import inside, sha256_file
from ptq_export.benchmarks.parity import local_parity
from ptq_export.calibrators.quantise import quantised_grids, quantised_modules
from ptq_export.calibrators.sites import find_units
from ptq_export.checkpoints import load_checkpoint
from ptq_export.denoiser import Absent
from ptq_export.engines.load import load_engine
from ptq_export.engines.text_to_image import load_prompt_encoder
from ptq_export.errors import GateFailed, InputError
from ptq_export.graph.audit import check_codes, check_grids
from ptq_export.graph.model_file import load_model
from ptq_export.graph.prompt_file import load_whole
from ptq_export.guidance import Guidance
from ptq_export.pairs import Pairs
from ptq_export.pipeline.commands.reopened import (
    finished_manifest,
    network_missing,
    reopen,
    reopen_engine,
    simulate,
)
from ptq_export.pipeline.job import Job
from ptq_export.pipeline.latency import measure_latency, timing_verdict
from ptq_export.pipeline.progress import Progress
from ptq_export.report import build_report
from ptq_export.sampling import initial_noise
from ptq_export.text import Text

__all__ = ["bench", "compare", "inspect", "verify"]


def bench(run: Path, progress: Progress) -> dict[str, Any]:
    """Measure the latency of a run again, on this machine; its latency files, manifest and report follow.

    Its network is not loaded. The new files and the manifest become true together: killed at any point, the run is
    whole, with the old figures or the new.

    Raises:
        EnvironmentMissing: this machine cannot run the engine; it takes prompts, and the extra `text` is not installed.
    """
    with reopen_engine(run, progress) as job:
        load_engine(run)
        with job.folder.amending() as manifest:
            latency = measure_latency(_with_prompts(job))
            manifest["verdict"] |= timing_verdict(latency)
        build_report(run)
    return latency


def _with_prompts(job: Job) -> Job:
    """The job of a run that takes prompts, guided as it was calibrated; any other as it is."""
    encoder = load_prompt_encoder(job.folder.path)
    if encoder is None:
        return job
    parts = encoder.parts
    text = Text(Absent(), encoder.tokens, parts.conditions, parts.scale, parts.prompts)
    empty = {name: torch.from_numpy(row) for name, row in encoder([""]).items()}
    guidance = None if parts.scale == 1 else Guidance(parts.scale, empty)
    return replace(job, denoiser=replace(job.denoiser, text=text, guidance=guidance))


def verify(run: Path, progress: Progress, ckpt: str | None = None) -> dict[str, Any]:
    """Identity, hashes, codes and local parity again, on the machine that will serve the engine.

    `ckpt` names the run's checkpoint in place of the manifest. Code that the manifest names is not run: then, or where
    the checkpoint is not on this machine, codes and parity are left out, and `not_proved` says so.

    Raises:
        GateFailed: a file is damaged, or the engine differs from the simulation here. (The graph of an engine that
            needs a GPU is executed by ONNX Runtime.)
    """
    missing = network_missing(run, ckpt)
    with reopen_engine(run, progress) if missing else reopen(run, progress, ckpt) as job:
        files = _check_hashes(run, progress)
        if job.runs_here:
            load_engine(run)
        facts: dict[str, Any] = {"run": str(run), "files": files}
        if missing:
            told = f"that the engine computes what was calibrated: {missing} (--ckpt)"
            return facts | {"layers_with_equal_codes": None, "parity": None, "not_proved": told}
        return facts | _prove_again(job, progress)


def _check_hashes(run: Path, progress: Progress) -> int:
    """How many files the manifest names, all of them in the folder and whole."""
    artefacts = finished_manifest(run)["artefacts"]
    progress.stage("hashes", len(artefacts))
    for name, entry in artefacts.items():
        path = inside(run, name)
        found = sha256_file(path) if path.is_file() else "absent"
        if found != entry["sha256"]:
            raise GateFailed(f"{name} is damaged: sha256 {found}, the manifest says {entry['sha256']}", "copy it again")
        progress.advance()
    return len(artefacts)


def _prove_again(job: Job, progress: Progress) -> dict[str, Any]:
    """Codes and local parity."""
    reference, simulation = job.subject.module, simulate(job)
    units = find_units(job.subject, job.sites)
    graph = load_whole(job.folder.path / job.target.onnx)
    layers = quantised_modules(simulation)
    check_codes(graph, layers)
    check_grids(graph, quantised_grids(simulation))
    modules = dict.fromkeys(name for unit in units for name in (*unit.sites, unit.name))
    times = torch.linspace(0, job.denoiser.schedule.num_train_timesteps - 1, 4).long()
    noise = initial_noise((4, *job.denoiser.sample_shape), 0)
    pairs = Pairs(noise, job.denoiser.schedule.timesteps(times.tolist()), job.denoiser.draw(4, 0))
    progress.stage("parity, layer by layer", None)
    run_graph = job.prover.engine().run_graph
    rows = local_parity(reference, simulation, graph, modules, run_graph, pairs, job.float_dtype)
    differing = [row.block for row in rows if not row.ok]
    if differing:
        raise GateFailed(f"the engine differs from the simulation in {', '.join(differing)}", "make the run again here")
    return {"layers_with_equal_codes": len(layers), "parity": len(rows)}


def inspect(path: Path) -> dict[str, Any]:
    """What a run folder, an ONNX file or a checkpoint holds."""
    if (path / "manifest.json").is_file():
        manifest = finished_manifest(path)
        keys = ("command", "created", "target", "denoiser", "scheme", "verdict", "versions", "artefacts")
        return {key: manifest[key] for key in keys}
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is neither a file nor a folder", "a pipe would be waited for")
    if path.suffix == ".onnx":
        return _inspect_onnx(path)
    source = load_checkpoint(str(path)).source
    return {field.name: getattr(source, field.name) for field in fields(source)}


def compare(first: Path, second: Path) -> dict[str, Any]:
    """Two runs side by side: the options in which they differ, and the figures of both."""
    a, b = finished_manifest(first), finished_manifest(second)
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
        "opset": model.opset_imports.get(""),
        "operators": dict(sorted(operators.items(), key=lambda item: -item[1])),
        "weights": weights,
        "metadata": dict(model.metadata_props),
        "sha256": sha256_file(path),
    }
