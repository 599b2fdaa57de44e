"""What a TensorRT target adds to the main job: the graph is linted, tried on a real builder, and handed over."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ptq_export.artifacts import atomic_path
from ptq_export.engines.build_cache import sidecar_path, write_identity
from ptq_export.engines.cuda.driver import count_gpus, describe_gpu
from ptq_export.engines.registry import KINDS, availability
from ptq_export.engines.trt import build_plan
from ptq_export.engines.trt.plan import RTX, Plan, make_plan
from ptq_export.engines.trt.plan_weights import stored_weights
from ptq_export.engines.trt.reuse import PlanRequest, batch_range, builder_settings, plan_name
from ptq_export.engines.trt.rules import RULES, lint
from ptq_export.errors import EnvironmentMissing, GateFailed
from ptq_export.pipeline.job import CHECKED, Job
from ptq_export.schemas import read_part
from ptq_export.scratch import scratch_folder

__all__ = ["check_graph", "check_is_due", "hand_over"]


def check_graph(job: Job, graph: ir.Model) -> None:
    """Write `tensorrt.json`: the rules of TensorRT that the graph breaks, the plans that were built of it, and what
    was refused.

    The target's own package builds the plan that is kept; TensorRT for RTX tries every graph, because it can do so
    without a GPU, and its plan shows whether the weights are stored as int8.
    """
    if job.folder.has(CHECKED) and not check_is_due(job):
        return
    plans: dict[str, Any] = {}
    refusals: dict[str, str] = {}
    for package in dict.fromkeys(("" if job.options.check == "none" else RTX, _own(job))):
        try:
            if package and find_spec(package):
                plans[package] = _build(job, graph, package)
        except EnvironmentMissing as error:
            job.progress.message(error.cause)
        except GateFailed as error:
            refusals[package] = error.cause
    findings = [finding.to_json() for finding in lint(graph)]
    value = {"rules": [rule.name for rule in RULES], "findings": findings, "own": _own(job)}
    job.folder.save_json(CHECKED, {**value, "plans": plans, "refusals": refusals})


def check_is_due(job: Job) -> bool:
    """Whether `--check rtx` asks for what is not proved yet, or the target's own plan is absent or damaged while its
    builder is here and has not refused the graph."""
    checked = job.folder.load_json(CHECKED)
    if checked is None:
        return False
    if job.options.check == "rtx" and not _is_proved(checked):
        return True
    if not _own(job) or find_spec(_own(job)) is None or _own(job) in checked["refusals"]:
        return False
    plan = _plan_file(job)
    return not (job.folder.has(plan.name) and job.folder.has(sidecar_path(plan).name))


def _is_proved(checked: Mapping[str, Any]) -> bool:
    weights = checked["plans"].get(RTX, {}).get("weights")
    return weights is not None and weights["as_int8"] == weights["count"]


def hand_over(job: Job) -> None:
    """Put the script beside the graph that builds the plan where it will run.

    Raises:
        EnvironmentMissing: the plan could not be built here; everything up to the ONNX file is finished.
    """
    path, own = job.folder.path, _own(job)
    if not own:
        _refuse_unbuilt(job)
        return
    script = path / Path(str(build_plan.__file__)).name
    with atomic_path(script) as temporary:
        shutil.copyfile(str(build_plan.__file__), temporary)
    if own in read_part(path, CHECKED)["plans"]:
        return
    missing = availability(job.target.engine)[1] or f"{own} is too old"
    batch = ":".join(map(str, _batch(job)))
    names = ",".join(job.options.compute_capabilities)
    named = f" --compute-capability {names}" if names else ""
    raise EnvironmentMissing(
        f"{job.target.name} cannot be built on this machine: {missing}",
        f"the ONNX file is finished and proved; copy {path} to the machine that will serve it and run there: "
        f"python {script.name} {job.target.onnx} --package {own} --batch {batch}{named} "
        f"(where this package is installed too: ptq-export bench {path.name})",
    )


def _refuse_unbuilt(job: Job) -> None:
    """ONNX Runtime builds its engine from the ONNX file, where its provider can be loaded."""
    available, missing = availability(job.target.engine)
    if not available:
        raise EnvironmentMissing(
            f"{job.target.name} cannot be built on this machine: {missing}",
            f"the ONNX file is finished and proved; copy {job.folder.path} to the machine that will serve it and run "
            f"there: ptq-export bench {job.folder.path.name}",
        )


def _own(job: Job) -> str:
    """The module whose plan the target's engine loads; empty where ONNX Runtime or a Jetson builds the engine."""
    package = next(iter(KINDS[job.target.engine].packages), "")
    return "" if package == "onnxruntime" else package


def _batch(job: Job) -> tuple[int, int, int]:
    """Least, usual and largest batch of the plan."""
    return batch_range(job.engine_options)


def _plan_file(job: Job) -> Path:
    source = job.folder.path / job.target.onnx
    return source.with_name(plan_name(source, _batch(job), builder_settings(job.engine_options)))


def _build(job: Job, graph: ir.Model, package: str) -> dict[str, Any]:
    """An entry of `plans`: the plan by `package`, and how one of TensorRT for RTX stores the weights."""
    with job.stage(f"{package}, parser and builder"), scratch_folder() as folder:
        file = _plan_file(job) if package == _own(job) else Path(folder) / "checked.plan"
        plan = _keep(job, graph, file) if package == _own(job) else _try(job, graph, file)
        entry = asdict(plan)
        if package == RTX and job.options.check != "none":
            entry["weights"] = stored_weights(graph, file.read_bytes()).to_json()
        return entry


def _try(job: Job, graph: ir.Model, file: Path) -> Plan:
    return make_plan(RTX, job.folder.path / job.target.onnx, file, _batch(job), graph)


def _keep(job: Job, graph: ir.Model, file: Path) -> Plan:
    """The target's own plan, with its identity beside it."""
    source, batch, package = job.folder.path / job.target.onnx, _batch(job), _own(job)
    settings = builder_settings(job.engine_options)
    plan = make_plan(package, source, file, batch, graph, settings)
    gpu = describe_gpu() if count_gpus() else None
    request = PlanRequest(package, plan.version, source, job.folder.sha256(source.name), batch, settings, gpu)
    write_identity(file, request.identity)
    job.folder.keep(file.name)
    job.folder.keep(sidecar_path(file).name)
    return plan
