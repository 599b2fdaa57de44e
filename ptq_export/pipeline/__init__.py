"""The main job and what one does with its run folders; the command line and the Python API call nothing else."""

from ptq_export.engines import load_engine
from ptq_export.engines.jetson.bundle import build_bundle
from ptq_export.pipeline.api import export, quantise
from ptq_export.pipeline.commands.after import bench, compare, inspect, verify
from ptq_export.pipeline.commands.sample import sample
from ptq_export.pipeline.commands.sensitivity import sensitivity
from ptq_export.pipeline.drawing import Drawing, load_pipeline
from ptq_export.pipeline.estimate import Estimate, estimate
from ptq_export.pipeline.progress import Progress
from ptq_export.pipeline.run import RunResult, run, try_run

__all__ = [
    "Drawing",
    "Estimate",
    "Progress",
    "RunResult",
    "bench",
    "build_bundle",
    "compare",
    "estimate",
    "export",
    "inspect",
    "load_engine",
    "load_pipeline",
    "quantise",
    "run",
    "sample",
    "sensitivity",
    "try_run",
    "verify",
]
