"""A finished run taken up again: its manifest, its job, and the simulation of its engine.

A run folder may have been received: nothing that it names is imported. A checkpoint file that it names is read as any
checkpoint is, without running code; nothing of it is shown, and it is used only if its digest is the manifest's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import torch
from torch import Tensor, nn

from ptq_export.calibrators.arrays import read_arrays
from ptq_export.calibrators.quantise import restore
from ptq_export.checkpoints import runs_code
from ptq_export.checkpoints.told import recorded_scheduler
from ptq_export.conditions import check_examples
from ptq_export.denoiser import Absent, Denoiser, NoiseSchedule, Source
from ptq_export.errors import InputError
from ptq_export.interface import Input, inputs_from_json
from ptq_export.nn.share import share
from ptq_export.options import Options
from ptq_export.pipeline.float_layers import put_back, with_float_layers
from ptq_export.pipeline.job import Job, Plan, read_timings
from ptq_export.pipeline.linears import with_inputs
from ptq_export.pipeline.progress import Progress
from ptq_export.pipeline.stages import PAIRS, QUANTISED, load_denoiser, open_job
from ptq_export.pipeline.tuning.tune import tuned_plan
from ptq_export.report import build_report
from ptq_export.run_folder import RunFolder
from ptq_export.schedulers import make_scheduler
from ptq_export.schemas import MANIFEST, read_options, read_part
from ptq_export.targets import find_target

__all__ = [
    "examples_known",
    "examples_of",
    "finished_manifest",
    "network_missing",
    "read_schedule",
    "reopen",
    "reopen_engine",
    "simulate",
]

LONGEST = 10**6
UNFIT = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def finished_manifest(run: Path) -> dict[str, Any]:
    """The manifest of a run.

    Raises:
        InputError: the run is not finished, or a field of its manifest is not what it must be.
    """
    if not (run / MANIFEST).is_file():
        raise InputError(f"{run} is not a finished run: it has no {MANIFEST}", "finish it with the same command")
    return read_part(run, MANIFEST)


def read_schedule(manifest: Mapping[str, Any], run: Path) -> NoiseSchedule:
    """The noise schedule of a run.

    Raises:
        InputError: there is none, or none such.
    """
    found = manifest["denoiser"].get("schedule")
    known = get_type_hints(NoiseSchedule)
    try:
        if found is None:
            raise ValueError("it is absent")
        if wrong := [name for name, value in found.items() if not _is_a(value, known[name])]:
            raise ValueError(f"{', '.join(wrong)} of another type")
        if not 1 <= found.get("num_train_timesteps", 1) <= LONGEST:
            raise ValueError(f"num_train_timesteps is not in 1..{LONGEST}")
        schedule = NoiseSchedule.from_json(found)
        make_scheduler(schedule)
    except (NotImplementedError, *UNFIT) as error:
        raise InputError(f"{run / MANIFEST}: denoiser.schedule cannot be used: {error}", "copy it again") from error
    return schedule


def _is_a(value: object, hint: object) -> bool:
    """Types alone; a float may be written as an integer."""
    kinds: dict[object, tuple[type, ...]] = {bool: (bool,), int: (int,), float: (float, int), str: (str,)}
    return hint not in kinds or type(value) in kinds[hint]


def network_missing(run: Path, ckpt: str | None) -> str:
    """Why the float network of a run is not at hand; empty where it is, or was named in `ckpt`."""
    spec = read_options(finished_manifest(run), run / MANIFEST).ckpt
    if ckpt is not None or spec.startswith(("embedded:", "random:")):
        return ""
    if runs_code(spec):
        return f"the run's network is made by {spec}, which is code: it runs only if you name it"
    try:
        return "" if Path(spec).exists() else f"the run's checkpoint {spec} is not on this machine"
    except (OSError, ValueError):
        return "the run's checkpoint is not on this machine"


def reopen(run: Path, progress: Progress, ckpt: str | None = None) -> Job:
    """The job of a finished run; `ckpt` names its checkpoint in place of the manifest.

    Raises:
        InputError: the run is not finished, or its checkpoint is not what it was, or is code that was not named.
    """
    if missing := network_missing(run, ckpt):
        raise InputError(missing, "name it: --ckpt FILE, FOLDER or package.module:factory")
    folder, manifest, options = _open(run)
    denoiser = _load(run, options, manifest["denoiser"]["sha256"], ckpt)
    job = open_job(options, denoiser, read_part(run, "request.json"), progress)
    folder.close()
    job = replace(job, plan=with_inputs(job))
    job = replace(job, plan=tuned_plan(job))
    return replace(job, plan=with_float_layers(job))


def reopen_engine(run: Path, progress: Progress) -> Job:
    """The job of a finished run without its network: for what runs or times the engine alone.

    Raises:
        InputError: the run is not finished.
    """
    folder, manifest, options = _open(run)
    part = manifest["denoiser"]
    sample, _, *conditions = inputs_from_json(part["inputs"], str(run / MANIFEST))
    source = Source(part["spec"], part.get("format", ""), part["sha256"])
    schedule = read_schedule(manifest, run)
    shape = tuple(int(size) for size in sample.shape)
    examples = examples_of(run, conditions)
    denoiser = Denoiser(Absent(), schedule, shape, source, tuple(conditions), examples)
    plan = Plan(denoiser, denoiser, (), options.placements)
    return Job(options, find_target(options.target), denoiser, folder, progress, plan, read_timings(folder))


def examples_of(run: Path, conditions: Sequence[Input]) -> dict[str, Tensor]:
    """The conditions that a run was calibrated with, those that cannot be drawn.

    Raises:
        InputError: the file with them is damaged or gone, or the folder is a package.
    """
    names = [each.name for each in conditions if each.limit is None or each.open_sizes]
    if not names:
        return {}
    if (package := finished_manifest(run).get("package")) is not None:
        return _packaged_examples(run, package.get("examples", {}), [it for it in conditions if it.name in names])
    arrays = read_arrays(run / PAIRS, names, "copy the run folder again")
    found = {name: torch.from_numpy(arrays[name].read()) for name in names}
    kinds = {each.name: getattr(torch, each.dtype) for each in conditions}
    return {name: value.to(kinds[name]) for name, value in found.items()}


def _packaged_examples(run: Path, known: Mapping[str, Any], wanted: Sequence[Input]) -> dict[str, Tensor]:
    if absent := [each.name for each in wanted if each.name not in known]:
        told = f"{run} is a package, which has no examples of {', '.join(absent)}"
        raise InputError(told, "sample from the run that it was made from, or from Python with your own")
    try:
        found = {it.name: torch.tensor([known[it.name]], dtype=getattr(torch, it.dtype)) for it in wanted}
    except UNFIT as error:
        raise InputError(f"{run / MANIFEST}: package.examples cannot be used: {error}", "copy it again") from error
    check_examples(wanted, found)
    return found


def examples_known(run: Path, conditions: Sequence[Input]) -> dict[str, Tensor]:
    """The same of a run; of a package those that it has."""
    known = finished_manifest(run).get("package")
    if known is not None:
        conditions = [each for each in conditions if each.name in known.get("examples", {})]
    return examples_of(run, conditions)


def simulate(job: Job) -> nn.Module:
    """The simulation of a finished run: the network with the integer layers that the engine has.

    Raises:
        InputError: their file is damaged, or is not of this network.
    """
    state = job.folder.load_tensors(QUANTISED)
    if state is None:
        raise InputError(f"{job.folder.path / QUANTISED} is damaged or gone", "make the run again")
    model = share(job.subject.module)
    try:
        restore(model, state)
        put_back(job, model)
    except UNFIT as error:
        raise InputError(f"{job.folder.path / QUANTISED} does not fit the network: {error}", "copy it again") from error
    return model


def _open(run: Path) -> tuple[RunFolder, dict[str, Any], Options]:
    """The locked folder with what a killed process left put right, and then its manifest and options."""
    if "package" in finished_manifest(run):
        raise InputError(f"{run} is a package: an engine, and not the run of it", "give the run that it was made from")
    folder = RunFolder.open(run)
    if folder.was_amended:
        build_report(run)
    manifest = finished_manifest(run)
    return folder, manifest, replace(read_options(manifest, run / MANIFEST), out=run)


def _recorded_prompts(inputs: Mapping[str, Any], run: Path) -> tuple[str, ...]:
    found = inputs.get("prompts", [])
    if not (isinstance(found, list) and all(isinstance(each, str) for each in found)):
        raise InputError(f"{run / 'request.json'}: inputs.prompts is no list of texts", "make the run again")
    return tuple(found)


def _load(run: Path, options: Options, sha256: str, ckpt: str | None) -> Denoiser:
    remedy = "put the original file back, or name it: --ckpt"
    inputs = read_part(run, "request.json").get("inputs", {})
    scheduler = recorded_scheduler(inputs.get("scheduler_config"))
    try:
        named = options if ckpt is None else replace(options, ckpt=ckpt)
        denoiser = load_denoiser(named, scheduler, _recorded_prompts(inputs, run))
    except InputError as error:
        if ckpt is not None:
            raise
        raise InputError(f"the checkpoint that {run} names cannot be used here", remedy) from error
    if denoiser.source.sha256 != sha256:
        raise InputError(f"{ckpt or options.ckpt} is not the checkpoint that {run} was made from", remedy)
    return denoiser
