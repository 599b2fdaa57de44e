"""What a TensorRT target adds to the main job: the graph is linted, tried on a real builder, and handed over."""

import shutil
import tempfile
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import onnx_ir as ir

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


def check_graph(job: Job, graph: ir.Model) -> None:
    """Write `tensorrt.json`: the rules of TensorRT that the graph breaks, and what TensorRT for RTX makes of it, where
    that is installed.

    Raises:
        GateFailed: the graph has an error, or parser or builder refuse it.
    """
    if job.folder.has(CHECKED) and not plan_is_due(job):
        return
    findings = lint(graph)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        shown = "\n".join(f"  {each.rule}: {each.node}: {each.seen}. {each.reason}" for each in errors[:10])
        raise GateFailed(f"the graph breaks rules of TensorRT, {len(errors)} times:\n{shown}", "please report this")
    plan = _try_rtx(job, graph) if find_spec(RTX) else None
    value = {
        "rules": [rule.name for rule in RULES],
        "findings": [finding.to_json() for finding in findings],
        "rtx": None if plan is None else asdict(plan),
    }
    job.folder.save_json(CHECKED, {"schema": SCHEMA, **value})


def plan_is_due(job: Job) -> bool:
    """Whether the run was finished where its builder was absent, and the builder is here now."""
    if job.target.engine != "trt-rtx" or find_spec(RTX) is None:
        return False
    checked = job.folder.load_json(CHECKED)
    return checked is not None and checked["rtx"] is None


def hand_over(job: Job) -> None:
    """The plan, or the script that builds it where it will run.

    Raises:
        EnvironmentMissing: it cannot be built here; everything up to the ONNX file is finished.
    """
    path = job.folder.path
    script = path / Path(str(build_plan.__file__)).name
    shutil.copyfile(str(build_plan.__file__), script)
    if job.target.engine == "trt-rtx" and find_spec(RTX):
        return
    _, missing = availability(job.target.engine)
    package = f" --package {RTX}" if job.target.engine == "trt-rtx" else ""
    command = f"python {script.name} {int8_file(job.target)}{package}"
    raise EnvironmentMissing(
        f"{job.target.name} cannot be built on this machine: {missing}",
        f"the ONNX file is finished and proved; copy {path} to the machine that will serve it and run there: {command}",
    )


def _try_rtx(job: Job, graph: ir.Model) -> Plan:
    """TensorRT for RTX builds the graph; the plan is kept where it is the target's own."""
    source = job.folder.path / int8_file(job.target)
    size = job.options.batch
    batch = DYNAMIC if size is None else (size, size, size)
    with job.stage("TensorRT for RTX, parser and builder"):
        if job.target.engine != "trt-rtx":
            with tempfile.TemporaryDirectory(prefix="ptq-export-") as folder:
                return make_plan(RTX, source, Path(folder) / "checked.plan", batch, graph)
        target = source.with_name(f"{source.stem}.batch{batch[0]}-{batch[2]}.plan")
        plan = make_plan(RTX, source, target, batch, graph)
        identity = current(
            "trt-rtx", {RTX: plan.version}, job.folder.sha256(source.name), {"batch": list(batch)}, isa=()
        )
        write_identity(target, identity)
        job.folder.keep(target.name)
        job.folder.keep(sidecar_path(target).name)
        return plan
