"""What is served: an engine under a name, with its thread."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ptq_export.clean_estimate import CleanEstimate
from ptq_export.command_options import Serving
from ptq_export.engines.load import load_engine
from ptq_export.pipeline.commands.reopened import examples_of, finished_manifest, read_schedule
from ptq_export.serving.batcher import Batcher, measured_times
from ptq_export.serving.metrics import Metrics
from ptq_export.serving.pictures import Range
from ptq_export.serving.request import Subject

__all__ = ["Model", "Models", "load_models"]

MOST_ROWS = 32


@dataclass(frozen=True)
class Model:
    """One engine of a run; `range` is what its final samples lie in, where the schedule says so."""

    name: str
    target: str
    subject: Subject
    batcher: Batcher
    range: Range
    clean_estimate: CleanEstimate


Models = Mapping[str, Model]
"""By name; the first serves whoever names none."""


def load_models(run: Path, serving: Serving, metrics: Metrics) -> dict[str, Model]:
    """The run's engine under the folder's name, and with `also` another of its engines as NAME:TARGET.

    Raises:
        EnvironmentMissing: this machine cannot run an engine.
        InputError: no finished run, or no such engine.
    """
    manifest = finished_manifest(run)
    name = run.resolve().name
    targets = {name: str(manifest["target"])}
    if serving.also is not None:
        targets[f"{name}:{serving.also}"] = serving.also
    return {name: _load(run, name, target, serving, metrics) for name, target in targets.items()}


def _load(run: Path, name: str, target: str, serving: Serving, metrics: Metrics) -> Model:
    schedule = read_schedule(finished_manifest(run), run)
    engine = load_engine(run, target)
    subject = Subject(engine.signature, schedule, examples_of(run, engine.signature.conditions))
    times = measured_times(engine, serving.max_batch or MOST_ROWS)
    fixed = engine.signature.batch or serving.max_batch
    batcher = Batcher(engine, schedule, times, fixed or MOST_ROWS, serving.queue, adapts=fixed is None)
    batcher.observer = metrics.watch(name, lambda: batcher.waiting, lambda: batcher.running)
    return Model(name, target, subject, batcher, schedule.sample_range, CleanEstimate(schedule))
