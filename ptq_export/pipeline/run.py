"""The main job: checkpoint -> calibration -> ONNX -> engine -> proofs -> latency -> report, in one run folder."""

import json
import os
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from ptq_export.artifacts import sha256_file
from ptq_export.benchmarks.environment import package_versions
from ptq_export.calibrators.pairs import load_pairs
from ptq_export.calibrators.ranges import find_metric
from ptq_export.calibrators.timesteps import find_policy
from ptq_export.checkpoints.told import read_scheduler
from ptq_export.denoiser import Denoiser
from ptq_export.device import find_device
from ptq_export.engines.registry import check_target
from ptq_export.engines.runtime import Runtime
from ptq_export.errors import EnvironmentMissing, GateFailed
from ptq_export.machine import release_memory
from ptq_export.options import Options
from ptq_export.pipeline.estimate import require_resources
from ptq_export.pipeline.float_layers import SENSITIVITY, choose_float_layers, put_back, rank_layers
from ptq_export.pipeline.graphs import export_float, export_graphs
from ptq_export.pipeline.job import Job
from ptq_export.pipeline.latency import measure_latency
from ptq_export.pipeline.linears import choose_inputs
from ptq_export.pipeline.manifest import plain, record_calibration, write_manifest
from ptq_export.pipeline.progress import SILENT, Progress
from ptq_export.pipeline.proofs import below_floor, build, check_layers, prove
from ptq_export.pipeline.stages import calibration_pairs, given, load_denoiser, open_job, quantised
from ptq_export.pipeline.start import note_own_operations
from ptq_export.pipeline.text_parts import export_around
from ptq_export.pipeline.tuning.tune import check_tuning, choose
from ptq_export.prompts import read_prompts
from ptq_export.report import build_report
from ptq_export.run_folder import RunFolder
from ptq_export.schedulers import check_steps
from ptq_export.schemas import MANIFEST, SCHEMA, read_part
from ptq_export.targets import find_target

__all__ = ["RunResult", "prepare", "run", "try_run"]


@dataclass(frozen=True)
class RunResult:
    """What a run came to: its folder, where everything was written, and what its manifest says of it.

    `failures` are the proofs that do not hold, `undelivered` why the engine could not be built on this machine.
    """

    path: Path
    verdict: Mapping[str, Any]
    undelivered: EnvironmentMissing | None = None

    @property
    def failures(self) -> tuple[str, ...]:
        """The proofs that do not hold."""
        return tuple(self.verdict["failures"])

    def folder(self) -> Path:
        """The run folder of a whole result.

        Raises:
            GateFailed: a proof does not hold.
            EnvironmentMissing: the engine could not be built here.
        """
        if self.failures:
            shown = "\n".join(f"  {failure}" for failure in self.failures[:10])
            cause = f"proofs that do not hold, {len(self.failures)}:\n{shown}"
            raise GateFailed(cause, f"see {self.path / 'report.html'}")
        if self.undelivered is not None:
            raise self.undelivered
        return self.path


def run(options: Options, progress: Progress = SILENT) -> Path:
    """Do the whole job, or what is left of it; returns the run folder.

    Raises:
        GateFailed: a proof does not hold. Everything was written, the manifest and the report say what failed.
        InputError: an option, the checkpoint or the run folder cannot be used; nothing was written.
        EnvironmentMissing: this machine lacks what the target needs; the calibrated, proved ONNX file is written.
    """
    return try_run(options, progress).folder()


def try_run(options: Options, progress: Progress = SILENT) -> RunResult:
    """`run`, with a proof that fails, or an engine that cannot be built here, in the result instead of raised."""
    options = options.resolved()
    job = prepare(options, progress)
    with closing(job.folder):
        if _is_finished(job.folder) and not job.runtime.check_is_due(job.order):
            progress.message(f"{job.folder.path} is finished already")
        else:
            started = datetime.now(UTC)
            job = _proved(job)  # and so nothing holds the network any more: engines are opened in its place
            _measure(job)
            write_manifest(job, started)
        return _result(job)


def _proved(job: Job) -> Job:
    """The job without its network, its engine built and proved: all that needs the network is done."""
    check_tuning(job)
    # From here on, files that it names may change: it is written again at the end.
    (job.folder.path / MANIFEST).unlink(missing_ok=True)
    torch.set_num_threads(job.options.threads or len(os.sched_getaffinity(0)))
    export_float(job)
    export_around(job)
    pairs = calibration_pairs(job)
    job = replace(job, plan=choose_inputs(job, pairs))
    job = replace(job, plan=choose(job, pairs))
    simulation = quantised(job, pairs)
    job = replace(job, plan=choose_float_layers(job, simulation))
    put_back(job, simulation)
    record_calibration(job, pairs)
    graph = export_graphs(job, simulation)
    job.runtime.check(job.order, graph)
    with job.stage("engine"):
        engine = build(job, job.target, job.prover)
    prove(job, simulation, graph, engine, pairs)
    if below_floor(job) and not job.folder.has(SENSITIVITY):
        rank_layers(job, simulation)
    job.runtime.deliver(job.order, graph)
    return job.without_network()


def _measure(job: Job) -> None:
    """What the engine executes, and how fast."""
    release_memory()
    check_layers(job)
    if job.runs_here and not all(job.folder.has(name) for name in ("latency.json", "latency.png")):
        measure_latency(job)


def prepare(options: Options, progress: Progress) -> Job:
    """Check everything that can be checked before work begins, then open the run folder."""
    target = find_target(options.target)
    target.quantised()
    runtime = check_target(target, options)
    if advice := _require(runtime, target.name):
        progress.message(advice)
    find_device(options.device)
    find_policy(options.policy)
    find_metric(options.metric)
    scheduler, prompts = read_scheduler(options.scheduler_config), read_prompts(options.prompts)
    denoiser = _noted(load_denoiser(options, scheduler, prompts))
    runtime.check_inputs(target.name, denoiser.inputs)
    require_resources(options, denoiser)
    check_steps(denoiser.schedule, given(options.steps))
    for note in denoiser.source.notes:
        progress.message(note)
    inputs: dict[str, Any] = {
        "checkpoint_sha256": denoiser.source.sha256,
        "schedule": denoiser.schedule.to_json(),
    }
    if denoiser.blocks:
        inputs["blocks"] = ", ".join(kind.__qualname__ for kind in denoiser.blocks)
    if options.config is not None:
        inputs["config_sha256"] = sha256_file(options.config)
    if options.calibration_data is not None:
        load_pairs(options.calibration_data, denoiser)
        inputs["calibration_data_sha256"] = sha256_file(options.calibration_data)
    if scheduler:  # whole, so that the run is reopened without the file
        inputs["scheduler_config"] = json.dumps(scheduler, sort_keys=True)
    if prompts:
        inputs["prompts"] = list(prompts)
    request = {
        "schema": SCHEMA,
        "options": plain(replace(options, out=None, check=None)),
        "inputs": inputs,
        "versions": package_versions(runtime.distributions),
        "machine": {"threads": options.threads or len(os.sched_getaffinity(0))},
    }
    return open_job(options, denoiser, request, progress)


def _noted(denoiser: Denoiser) -> Denoiser:
    """The denoiser with a note of what it computes outside of layers."""
    note = note_own_operations(denoiser)
    source = replace(denoiser.source, notes=(*denoiser.source.notes, note))
    return replace(denoiser, source=source) if note else denoiser


def _require(runtime: Runtime, target: str) -> str:
    """Without its package a CPU's runtime is refused before work begins; a GPU's graph is finished without a GPU.

    Returns what would make the engine faster.
    """
    missing = runtime.missing()
    if missing is None:
        return runtime.advice()
    if runtime.device == "cpu":
        raise EnvironmentMissing(f"{target} cannot be built here", missing.in_one_line)
    return ""


def _is_finished(folder: RunFolder) -> bool:
    """Whether the manifest stands and every file that it names is whole."""
    if not (folder.path / MANIFEST).is_file():
        return False
    artefacts = read_part(folder.path, MANIFEST)["artefacts"]
    return all(folder.has(name) and folder.sha256(name) == entry["sha256"] for name, entry in artefacts.items())


def _result(job: Job) -> RunResult:
    """The report of a finished run, and what came of it: an engine counts only where every proof holds."""
    path = job.folder.path
    build_report(path)
    result = RunResult(path, read_part(path, MANIFEST)["verdict"])
    return result if result.failures else replace(result, undelivered=job.runtime.undelivered(job.order))
