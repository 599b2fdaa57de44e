"""`ptq-export sensitivity RUN`: what each int8 layer costs in fidelity."""

from pathlib import Path
from typing import Any

from ptq_export.pipeline.commands.reopened import reopen, simulate
from ptq_export.pipeline.float_layers import rank_layers
from ptq_export.pipeline.progress import Progress
from ptq_export.report import build_report

__all__ = ["sensitivity"]


def sensitivity(run: Path, progress: Progress, ckpt: str | None = None) -> dict[str, Any]:
    """Rank the int8 layers of a finished run by the noise that each makes alone.

    Writes `sensitivity.json` and `sensitivity.png` to the run folder, together with the manifest; the report follows.
    `ckpt` names the run's checkpoint in place of the manifest: it must where that is code.
    """
    with reopen(run, progress, ckpt) as job:
        with job.folder.amending():
            value = rank_layers(job, simulate(job))
        build_report(run)
    return value
