"""`ptq-export sensitivity RUN`: what each int8 layer costs in fidelity and saves in time."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ptq_export.artifacts import describe_file, read_json, write_json
from ptq_export.calibrators.quantise import quantised_modules
from ptq_export.engines.ort_profile import layer_times_ms
from ptq_export.pipeline.float_layers import PLOT, SENSITIVITY, rank_layers
from ptq_export.pipeline.proofs import build
from ptq_export.pipeline.reopened import reopen, simulate
from ptq_export.pipeline.stages import FP32, Job, Progress, int8_file
from ptq_export.report import build_report
from ptq_export.sampling import initial_noise

__all__ = ["sensitivity"]


def sensitivity(run: Path, progress: Progress) -> dict[str, Any]:
    """Rank the int8 layers of a finished run by the noise that each makes alone, with the time that int8 saves in each.

    Writes `sensitivity.json` and `sensitivity.png` to the run folder; manifest and report follow.
    """
    job = reopen(run, progress)
    simulation = simulate(job)
    value = rank_layers(job, simulation, times_ms=_times_ms(job, quantised_modules(simulation)))
    manifest = read_json(run / "manifest.json")
    for name in (SENSITIVITY, PLOT):
        manifest["artefacts"][name] = describe_file(run / name)
    write_json(run / "manifest.json", manifest)
    build_report(run)
    return value


def _times_ms(job: Job, names: Iterable[str]) -> dict[str, dict[str, float]]:
    """For each of the layers `names`: milliseconds at the smallest batch in the int8 engine and in FP32."""
    batch = job.options.batch or 1
    time = torch.full((batch,), job.denoiser.schedule.num_train_timesteps // 2)
    inputs = (initial_noise((batch, *job.denoiser.sample_shape), 0), time, *job.denoiser.labels(batch, 0))
    arrays = [value.numpy() for value in inputs]
    with job.stage("time of each layer"):
        int8, fp32 = (layer_times_ms(build(job, file), arrays) for file in (int8_file(job.target), FP32))
    return {name: {"int8": round(int8[name], 4), "fp32": round(fp32[name], 4)} for name in names}
