"""`ptq-export sensitivity RUN`: what each int8 layer costs in fidelity."""

from pathlib import Path
from typing import Any

from ptq_export.artifacts import describe_file, read_json, write_json
from ptq_export.pipeline.float_layers import PLOT, SENSITIVITY, rank_layers
from ptq_export.pipeline.reopened import reopen, simulate
from ptq_export.pipeline.stages import Progress
from ptq_export.report import build_report

__all__ = ["sensitivity"]


def sensitivity(run: Path, progress: Progress) -> dict[str, Any]:
    """Rank the int8 layers of a finished run by the noise that each makes alone.

    Writes `sensitivity.json` and `sensitivity.png` to the run folder; manifest and report follow.
    """
    job = reopen(run, progress)
    value = rank_layers(job, simulate(job))
    manifest = read_json(run / "manifest.json")
    for name in (SENSITIVITY, PLOT):
        manifest["artefacts"][name] = describe_file(run / name)
    write_json(run / "manifest.json", manifest)
    build_report(run)
    return value
