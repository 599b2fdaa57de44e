"""`--tune`: what is faster in float on this machine stays float, decided before the long calibration begins."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ptq_export.artifacts import sha256_file
from ptq_export.benchmarks.environment import describe_environment, package_versions
from ptq_export.benchmarks.fidelity import finite_db
from ptq_export.calibrators.sites import find_sites, find_units
from ptq_export.engines.cuda.driver import describe_gpu
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.interface import inputs_to_json
from ptq_export.nn.grid_point import grid_points
from ptq_export.nn.scheme import placed
from ptq_export.pairs import Pairs
from ptq_export.pipeline.job import Job, Plan
from ptq_export.pipeline.linears import GAINS, LINEARS
from ptq_export.pipeline.proofs import one_call
from ptq_export.pipeline.stages import PAIRS
from ptq_export.pipeline.tuning.cache import cache_file, recall, remember
from ptq_export.pipeline.tuning.candidates import LayerTimes, find_work, group_candidates
from ptq_export.pipeline.tuning.race import BRIEF, Candidate, Choice, Limits, Outcome, Race, Trial, search
from ptq_export.pipeline.tuning.workbench import JobBench, Variant, open_variant, renamed, tuning_batch
from ptq_export.report.tables import tuning_line
from ptq_export.schemas import SCHEMA
from ptq_export.targets import FP32, FP32_UNFOLDED
from ptq_export.text_to_image import PARTS

__all__ = ["TUNING", "check_tuning", "choose", "tuned_plan", "tuning_key"]

TUNING = "tuning.json"
TOGGLES = {
    "before-resize": {False: "quantisers before upsamplings, too", True: "no quantisers before upsamplings"},
    "residual": {False: "int8 operands of residual sums", True: "float operands of residual sums"},
    "conv1-output": {False: "int8 results of first convolutions", True: "float results of first convolutions"},
}
SHORTCUTS = {True: "joint shortcuts in place of split ones", False: "split shortcuts in place of joint ones"}


def choose(job: Job, pairs: Pairs) -> Plan:
    """The plan of the job, with the layers and the form of its shortcuts that are fastest here, if `--tune` asks so.

    The choice is `tuning.json`, taken from the run folder, else from the user's cache, else measured. What the run
    folder holds of another choice is made again.
    """
    seconds = job.options.tune
    if seconds is None:
        return job.plan
    if not job.folder.has(TUNING):
        key = tuning_key(job)
        found = recall(key)
        reused = found is not None and (found["budget_s"] >= seconds or not found["not_reached"])
        value = found if found is not None and reused else _measure(job, pairs, seconds)
        if not reused:
            remember(key, value)
        job.folder.forget_all_but([PAIRS, LINEARS, GAINS, FP32, FP32_UNFOLDED, *PARTS])
        job.folder.save_json(TUNING, value | {"reused": reused})
        job.progress.message(f"{tuning_line(value | {'reused': reused})}; kept in {cache_file(key)}")
    return tuned_plan(job)


def check_tuning(job: Job) -> None:
    """Find out before work begins that what `--tune` has to measure cannot run.

    Raises:
        EnvironmentMissing: the target's engine is not of this machine, and nothing was measured yet.
    """
    if job.options.tune is None or job.folder.has(TUNING):
        return
    if missing := job.runtime.missing(job.own_options):
        cause = f"--tune measures {job.target.name}, which does not run here: {missing.in_one_line}"
        raise EnvironmentMissing(cause, "leave --tune out, or run this where it can be measured")


def tuned_plan(job: Job) -> Plan:
    """The plan of the job with the choice in its `tuning.json`, if it was asked for one.

    Raises:
        InputError: the file is damaged.
    """
    if job.options.tune is None:
        return job.plan
    value = job.folder.load_json(TUNING)
    if value is None:
        raise InputError(f"{job.folder.path / TUNING} is damaged or gone", "the same command makes the run again")
    chosen = value["chosen"]
    placements = frozenset(chosen.get("placements", job.plan.placements))
    variant, reasons = open_variant(job, chosen["split_shortcut"], placements), chosen["float_layers"]
    sites = tuple(replace(it, keep_float=reasons.get(it.name, it.keep_float)) for it in variant.sites)
    return replace(job.plan, subject=variant.subject, sites=sites, placements=placements)


def tuning_key(job: Job) -> dict[str, Any]:
    """The machine, the graph, and what may be chosen: two runs with this in common get the same answer."""
    machine, options = describe_environment(), job.options
    data = options.calibration_data
    return {
        "schema": SCHEMA,
        "machine": {"cpu": machine.cpu, "isa": list(machine.isa), "cores": machine.cores, "os": machine.os},
        "engine": {
            "target": job.target.name,
            "version": job.runtime.version(),
            "options": asdict(job.own_options),
            "gpu": describe_gpu().label if job.runtime.device == "gpu" else None,
        },
        "graph": {
            "checkpoint_sha256": job.denoiser.source.sha256,
            "inputs": inputs_to_json(job.denoiser.inputs),
            "variance": options.variance,
            "scheme": asdict(job.scheme),
            "versions": package_versions(),
        },
        "choices": {
            "layers": [site.name for site in job.sites if not site.keep_float],
            "by_token": [site.name for site in job.sites if site.by_token],
            "split_shortcut": options.split_shortcut,
            "loss_db": options.tune_loss_db,
        },
        "ranges": {
            "metric": options.metric,
            "policy": options.policy,
            "calibration_data_sha256": None if data is None else sha256_file(data),
        },
    }


def _measure(job: Job, pairs: Pairs, seconds: float) -> dict[str, Any]:
    start = Choice(job.options.split_shortcut, placements=job.plan.placements)
    with JobBench(job, pairs) as bench:
        with job.stage("tuning, a cheap quantisation"):
            candidates = _candidates(job, bench, start)
        with job.stage(f"tuning, {len(candidates)} candidates in {seconds:g} s") as share:
            outcome = search(start, candidates, bench, Limits(seconds, job.options.tune_loss_db), share)
    return _to_json(job, outcome, seconds)


def _candidates(job: Job, bench: JobBench, start: Choice) -> list[Candidate]:
    """Groups of layers, and the other form of the shortcuts among those that promise neither gain nor loss."""
    variant = bench.variant(start)
    if not variant.int8:
        return []
    every = replace(start, float_layers=variant.int8)
    race, inputs = bench.race(start, every, BRIEF), one_call(job, tuning_batch(job))
    times = LayerTimes(
        bench.engine(start).layer_times_ms(inputs),
        bench.engine(every).layer_times_ms(inputs),
        race.before.median_ms,
        race.after.median_ms,
    )
    work = find_work(variant.subject, [site.name for site in variant.sites if site.name in variant.int8])
    groups = group_candidates(work, find_units(variant.subject, variant.sites), times)
    others = [Candidate(SHORTCUTS[start.split_shortcut], frozenset(), 0.0)]
    if "--placement" in job.runtime.takes:
        shortcuts = _shortcuts(job, variant)
        if shortcuts and shortcuts not in {group.layers for group in groups}:
            others.append(Candidate("shortcuts of residual blocks", shortcuts, 0.0))
        there = {"before-resize", *(point.place.placement for point in grid_points(variant.subject.module).values())}
        toggles = {name: titles for name, titles in TOGGLES.items() if name in there}
        others += [
            Candidate(titles[name in start.placements], frozenset(), 0.0, name) for name, titles in toggles.items()
        ]
    return sorted([*groups, *others], key=lambda candidate: -candidate.expected_ms)


def _shortcuts(job: Job, variant: Variant) -> frozenset[str]:
    """The int8 layers that the placement float-shortcuts would keep float."""
    kept = find_sites(variant.subject, placed(job.scheme, ["float-shortcuts"]))
    return variant.int8 & {site.name for site in kept if site.keep_float}


def _to_json(job: Job, outcome: Outcome, seconds: float) -> dict[str, Any]:
    chosen, total = outcome.chosen, outcome.total
    return {
        "budget_s": seconds,
        "seconds": round(outcome.seconds, 1),
        "batch": tuning_batch(job),
        "chosen": {
            "split_shortcut": chosen.split_shortcut,
            "placements": sorted(chosen.placements),
            "float_layers": _reasons(outcome.trials, chosen),
        },
        "total": None if total is None else _race(total),
        "sqnr_db": {
            "untuned": finite_db(outcome.untuned_db),
            "tuned": finite_db(outcome.tuned_db),
            "loss_allowed": job.options.tune_loss_db,
        },
        "trials": [_trial(trial) for trial in outcome.trials],
        "not_reached": [
            {"what": it.title, "layers": sorted(it.layers), "expected_ms": round(it.expected_ms, 4)}
            for it in outcome.not_reached
        ],
    }


def _trial(trial: Trial) -> dict[str, Any]:
    return {
        "what": trial.candidate.title,
        "layers": sorted(trial.layers),
        "expected_ms": round(trial.candidate.expected_ms, 4),
        **_race(trial.race),
        "sqnr_db": None if trial.sqnr_db is None else finite_db(trial.sqnr_db),
        "kept": trial.kept,
        "why": trial.why,
    }


def _race(race: Race) -> dict[str, float]:
    speedup = race.speedup
    return {
        "before_ms": round(race.before.median_ms, 4),
        "after_ms": round(race.after.median_ms, 4),
        "speedup": round(speedup.middle, 4),
        "low": round(speedup.low, 4),
        "high": round(speedup.high, 4),
    }


def _reasons(trials: tuple[Trial, ...], chosen: Choice) -> dict[str, str]:
    """Why each layer is float, in the names of the chosen form of the shortcuts."""
    reasons: Mapping[str, str] = {}
    for trial in (trial for trial in trials if trial.kept):
        before, after = trial.race.before.median_ms, trial.race.after.median_ms
        reason = f"kept float: int8 is slower here ({before:.2f} ms against {after:.2f})"
        reasons = {**reasons, **dict.fromkeys(renamed(trial.layers, chosen.float_layers), reason)}
    return dict(sorted(reasons.items()))
