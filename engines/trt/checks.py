"""A graph of TensorRT's tried without running it: linted, and built by the builders that are here."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ptq_export.engines.build_cache import sidecar_path, write_identity
from ptq_export.engines.cuda.driver import count_gpus, describe_gpu
from ptq_export.engines.runtime import Order, is_installed
from ptq_export.engines.trt.options import TrtOptions
from ptq_export.engines.trt.plan import RTX, Plan, make_plan
from ptq_export.engines.trt.plan_weights import stored_weights
from ptq_export.engines.trt.reuse import PlanRequest, plan_name
from ptq_export.engines.trt.rules import RULES, lint
from ptq_export.errors import EnvironmentMissing, GateFailed
from ptq_export.scratch import scratch_folder

__all__ = ["CHECKED", "check_graph", "check_is_due", "failures", "options_of", "was_refused"]

CHECKED = "tensorrt.json"
NOTHING: Mapping[str, Any] = {"findings": [], "refusals": {}, "own": "", "plans": {}}


def check_graph(order: Order, own: str, graph: ir.Model) -> None:
    """Write `tensorrt.json`: the rules of TensorRT that the graph breaks, the plans that were built of it, and what
    was refused.

    `own` is the module whose plan the target's engine loads, and that plan is kept; empty where something else builds
    the engine. TensorRT for RTX tries every graph, because it can do so without a GPU, and its plan shows whether the
    weights are stored as int8.
    """
    if order.folder.has(CHECKED) and not check_is_due(order, own):
        return
    plans: dict[str, Any] = {}
    refusals: dict[str, str] = {}
    for package in dict.fromkeys(("" if order.check == "none" else RTX, own)):
        try:
            if package and is_installed(package):
                plans[package] = _build(order, own, graph, package)
        except EnvironmentMissing as error:
            order.message(error.cause)
        except GateFailed as error:
            refusals[package] = error.cause
    findings = [finding.to_json() for finding in lint(graph)]
    value = {"rules": [rule.name for rule in RULES], "findings": findings, "own": own}
    order.folder.save_json(CHECKED, {**value, "plans": plans, "refusals": refusals})


def check_is_due(order: Order, own: str) -> bool:
    """Whether `--check rtx` asks for what is not proved yet, or the target's own plan is absent or damaged while its
    builder is here and has not refused the graph."""
    checked = order.folder.load_json(CHECKED)
    if checked is None:
        return False
    if order.check == "rtx" and not _is_proved(checked):
        return True
    if not own or not is_installed(own) or own in checked["refusals"]:
        return False
    plan = _plan_file(order)
    return not (order.folder.has(plan.name) and order.folder.has(sidecar_path(plan).name))


def failures(order: Order) -> list[str]:
    """What the target's own builder refuses, or another that was asked; weights that are not int8 in a plan; rules."""
    checked = order.folder.load_json(CHECKED) or NOTHING
    binding = {checked["own"], *([RTX] if order.check == "rtx" else [])}
    found = [refusal for package, refusal in checked["refusals"].items() if package in binding]
    if order.check == "rtx" and RTX in checked["plans"]:
        found += _not_int8(checked["plans"][RTX]["weights"])
    return found + [
        f"{row['rule']}: {row['node']}: {row['seen']}. {row['reason']}"
        for row in checked["findings"]
        if row["severity"] == "error"
    ]


def was_refused(order: Order) -> bool:
    """Whether the target's own builder refused the graph."""
    checked = order.folder.load_json(CHECKED) or NOTHING
    return checked["own"] in checked["refusals"]


def options_of(order: Order) -> TrtOptions:
    """The order's options, which are TensorRT's."""
    assert isinstance(order.options, TrtOptions)
    return order.options


def _is_proved(checked: Mapping[str, Any]) -> bool:
    weights = checked["plans"].get(RTX, {}).get("weights")
    return weights is not None and weights["as_int8"] == weights["count"]


def _not_int8(weights: Mapping[str, Any]) -> list[str]:
    missing = weights["count"] - weights["as_int8"]
    told = f"{missing} of {weights['count']} int8 weights do not lie in the plan of TensorRT for RTX as int8"
    return [told] if missing else []


def _plan_file(order: Order) -> Path:
    options = options_of(order)
    return order.source.with_name(plan_name(order.source, options.batch_range, options.builder))


def _build(order: Order, own: str, graph: ir.Model, package: str) -> dict[str, Any]:
    """An entry of `plans`: the plan by `package`, and how one of TensorRT for RTX stores the weights."""
    with order.stage(f"{package}, parser and builder"), scratch_folder() as folder:
        file = _plan_file(order) if package == own else Path(folder) / "checked.plan"
        plan = _keep(order, package, graph, file) if package == own else _try(order, graph, file)
        entry = asdict(plan)
        if package == RTX and order.check != "none":
            entry["weights"] = stored_weights(graph, file.read_bytes()).to_json()
        return entry


def _try(order: Order, graph: ir.Model, file: Path) -> Plan:
    return make_plan(RTX, order.source, file, options_of(order).batch_range, graph)


def _keep(order: Order, package: str, graph: ir.Model, file: Path) -> Plan:
    """The target's own plan, with its identity beside it."""
    options, digest = options_of(order), order.folder.sha256(order.onnx)
    plan = make_plan(package, order.source, file, options.batch_range, graph, options.builder)
    gpu = describe_gpu() if count_gpus() else None
    request = PlanRequest(package, plan.version, order.source, digest, options.batch_range, options.builder, gpu)
    write_identity(file, request.identity)
    order.folder.keep(file.name)
    order.folder.keep(sidecar_path(file).name)
    return plan
