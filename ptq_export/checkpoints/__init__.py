"""Checkpoints of several formats as one value, `Denoiser`; no code from a file is ever run."""

from ptq_export.checkpoints.load import load_checkpoint, runs_code
from ptq_export.checkpoints.registry import FORMATS

__all__ = ["FORMATS", "load_checkpoint", "runs_code"]
