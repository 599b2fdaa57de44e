"""A finished run taken up again: its manifest, its job, and the simulation of its engine."""

import copy
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from torch import nn

from ptq_export.artifacts import read_json
from ptq_export.calibrators.quantise import restore
from ptq_export.checkpoints.told import recorded_scheduler
from ptq_export.errors import InputError
from ptq_export.options import Options
from ptq_export.pipeline.float_layers import choose_float_layers
from ptq_export.pipeline.stages import QUANTISED, Job, Progress, load_denoiser, open_job
from ptq_export.pipeline.tune import take_tuning

__all__ = ["finished_manifest", "reopen", "simulate"]


def finished_manifest(run: Path) -> dict[str, Any]:
    """The manifest of a run.

    Raises:
        InputError: the run is not finished.
    """
    if not (run / "manifest.json").is_file():
        raise InputError(f"{run} is not a finished run: it has no manifest.json", "finish it with the same command")
    return read_json(run / "manifest.json")


def simulate(job: Job) -> nn.Module:
    """The simulation of a finished run: the network with the integer layers that the engine has.

    Raises:
        InputError: their file is damaged.
    """
    state = job.folder.load_tensors(QUANTISED)
    if state is None:
        raise InputError(f"{job.folder.path / QUANTISED} is damaged or gone", "make the run again")
    model = copy.deepcopy(job.subject.module)
    restore(model, state)
    choose_float_layers(job, model)
    return model


def reopen(run: Path, progress: Progress) -> Job:
    """The job of a finished run.

    Raises:
        InputError: the run is not finished, or its checkpoint is not what it was.
    """
    manifest = finished_manifest(run)
    known = {field.name for field in fields(Options)}
    values = {key: value for key, value in manifest["options"].items() if key in known}
    options = Options(**cast(Any, values | {"out": run}))
    request = read_json(run / "request.json")
    denoiser = load_denoiser(options, recorded_scheduler(request.get("inputs", {}).get("scheduler_config")))
    if denoiser.source.sha256 != manifest["denoiser"]["sha256"]:
        raise InputError(f"{options.ckpt} is not the checkpoint that {run} was made from", "put the original file back")
    job = open_job(options, denoiser, request, progress)
    take_tuning(job)
    return job
