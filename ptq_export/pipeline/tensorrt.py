"""What a TensorRT target adds to the main job: the graph is linted, tried on a real builder, and handed over."""

import shutil
import tempfile
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import onnx_ir as ir

from ptq_export.artifacts import read_json
from ptq_export.engines import build_plan
from ptq_export.engines.available import availability
from ptq_export.engines.identity import current, sidecar_path, write_identity
from ptq_export.engines.plan import RTX, Plan, make_plan
from ptq_export.errors import EnvironmentMissing, GateFailed
from ptq_export.graph.tensorrt_rules import RULES, lint
from ptq_export.pipeline.stages import Job, int8_file

__all__ = ["CHECKED", "check_graph", "hand_over", "plan_is_due"]

SCHEMA = 1
CHECKED = "tensorrt.json"
DYNAMIC = (1, 4, 64)
PACKAGES = {"trt": "tensorrt", "trt-rtx": RTX}


def check_graph(job: Job, graph: ir.Model) -> None:
    """Write `tensorrt.json`: the rules of TensorRT that the graph breaks, and the plans that were built of it.

    The target's own package builds the plan that is kept; TensorRT for RTX tries every graph, because it can do so
    without a GPU.

    Raises:
        GateFailed: the graph has an error, or a parser or builder refuses it.
    """
    if job.folder.has(CHECKED) and not plan_is_due(job):
        return
    findings = lint(graph)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        shown = "\n".join(f"  {each.rule}: {each.node}: {each.seen}. {each.reason}" for each in errors[:10])
        raise GateFailed(f"the graph breaks rules of TensorRT, {len(errors)} times:\n{shown}", "please report this")
    packages = [package for package in dict.fromkeys((RTX, _own(job))) if find_spec(package)]
    value = {
        "rules": [rule.name for rule in RULES],
        "findings": [finding.to_json() for finding in findings],
        "plans": {package: asdict(_build(job, graph, package)) for package in packages},
    }
    job.folder.save_json(CHECKED, {"schema": SCHEMA, **value})


def plan_is_due(job: Job) -> bool:
    """Whether the run was finished where its builder was absent, and the builder is here now."""
    checked = job.folder.load_json(CHECKED)
    return checked is not None and _own(job) not in checked["plans"] and find_spec(_own(job)) is not None


def hand_over(job: Job) -> None:
    """Put the script beside the graph that builds the plan where it will run.

    Raises:
        EnvironmentMissing: the plan could not be built here; everything up to the ONNX file is finished.
    """
    path, own = job.folder.path, _own(job)
    script = path / Path(str(build_plan.__file__)).name
    shutil.copyfile(str(build_plan.__file__), script)
    if own in read_json(path / CHECKED)["plans"]:
        return
    _, missing = availability(job.target.engine)
    raise EnvironmentMissing(
        f"{job.target.name} cannot be built on this machine: {missing}",
        f"the ONNX file is finished and proved; copy {path} to the machine that will serve it and run there: "
        f"python {script.name} {int8_file(job.target)} --package {own}",
    )


def _own(job: Job) -> str:
    return PACKAGES[job.target.engine]


def _build(job: Job, graph: ir.Model, package: str) -> Plan:
    """The plan by `package`, kept with its identity if that is the target's own."""
    source = job.folder.path / int8_file(job.target)
    size = job.options.batch
    batch = DYNAMIC if size is None else (size, size, size)
    with job.stage(f"{package}, parser and builder"):
        if package != _own(job):
            with tempfile.TemporaryDirectory(prefix="ptq-export-") as folder:
                return make_plan(package, source, Path(folder) / "checked.plan", batch, graph)
        target = source.with_name(f"{source.stem}.batch{batch[0]}-{batch[2]}.plan")
        plan = make_plan(package, source, target, batch, graph)
        onnx_sha256, versions = job.folder.sha256(source.name), {package: plan.version}
        write_identity(target, current(job.target.engine, versions, onnx_sha256, {"batch": list(batch)}, isa=()))
        job.folder.keep(target.name)
        job.folder.keep(sidecar_path(target).name)
        return plan
