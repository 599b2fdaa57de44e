"""Where tuning builds and measures its choices: a cheap quantisation whose engine takes the time of the real one.

Weights are rounded to nearest and ranges come from few pairs: neither changes what a step takes.

Two builds of one graph differ with the memory that they get, by 5 % on the embedded model: the earlier one was faster
all along. So each race builds both engines twice, in the order 1 2 2 1 or 2 1 1 2 by turns, times all four in the same
rounds, and compares the means of the two pairs.
"""

import math
from collections import OrderedDict
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx_ir as ir
import torch
from torch import nn

from ptq_export.benchmarks.sensitivity import median_sqnr_db, with_layers
from ptq_export.benchmarks.timing.clock import Protocol as Rounds
from ptq_export.benchmarks.timing.gpu_clock import race_gpu_steps
from ptq_export.benchmarks.timing.latency import measure_steps
from ptq_export.benchmarks.timing.stats import Latency
from ptq_export.calibrators.quantise import Method, UnitStore, integer_parts, quantise
from ptq_export.calibrators.sites import Site, find_sites, with_tokens
from ptq_export.denoiser import Denoiser
from ptq_export.device import find_device
from ptq_export.engines.base import Engine, GpuEngine
from ptq_export.graph.grid_pairs import DropGrids
from ptq_export.graph.passes.float_layers import FloatLayers
from ptq_export.nn.grid_point import GridPoint, grid_points, owner_of
from ptq_export.nn.probe import noise
from ptq_export.nn.scheme import GRID_PLACEMENTS
from ptq_export.pairs import Pairs
from ptq_export.pipeline.float_layers import few_held_out
from ptq_export.pipeline.graphs import export_graph, finished, fold_time, lay_out
from ptq_export.pipeline.job import Job
from ptq_export.pipeline.stages import ASKED, open_subject
from ptq_export.pipeline.tuning.race import Candidate, Choice, Race
from ptq_export.scratch import scratch_folder

__all__ = ["JobBench", "Variant", "open_variant", "renamed", "tuning_batch"]

PAIRS = 16
GRAPH, GRAPHS_KEPT = "choice.onnx", 3
SEED = 5


@dataclass(frozen=True)
class Variant:
    """What is quantised: the denoiser with its shortcuts joint or split, and its layers as `--keep-float` left them."""

    subject: Denoiser
    sites: tuple[Site, ...]

    @property
    def int8(self) -> frozenset[str]:
        """The layers that are not float yet."""
        return frozenset(site.name for site in self.sites if not site.keep_float)


@dataclass(frozen=True)
class _Quantised:
    variant: Variant
    parts: dict[str, dict[str, nn.Module]]
    graph: ir.Model


class JobBench:
    """Measures the choices of a job on its own target; use it as a context: its graphs lie in folders of its own.

    Of the network in both its forms, joint and split, the second is quantised when it is first asked for; both have
    every grid that a placement may ask for, and choices leave some out.
    """

    def __init__(self, job: Job, pairs: Pairs) -> None:
        self.job = job
        chosen = torch.linspace(0, len(pairs) - 1, min(PAIRS, len(pairs))).long()
        self._pairs = pairs.rows(chosen)
        self._held_out = few_held_out(job.denoiser, SEED)
        self._quantised: dict[bool, _Quantised] = {}
        self._folders: OrderedDict[Choice, TemporaryDirectory[str]] = OrderedDict()
        self._races = 0

    def __enter__(self) -> "JobBench":
        return self

    def __exit__(self, *_: object) -> None:
        for folder in self._folders.values():
            folder.cleanup()

    def variant(self, choice: Choice) -> Variant:
        """What the choice quantises."""
        return self._of(choice).variant

    def changed(self, choice: Choice, candidate: Candidate) -> Choice | None:
        """See `benchmarks.tuning.Workbench`."""
        if candidate.placement:
            return replace(choice, placements=choice.placements ^ {candidate.placement})
        if not candidate.layers:
            other = open_variant(self.job, not choice.split_shortcut, self._placements)
            same = len(other.sites) == len(self.variant(choice).sites)
            layers = renamed(choice.float_layers, other.int8)
            return None if same else Choice(not choice.split_shortcut, layers, choice.placements)
        int8 = self.variant(choice).int8
        layers = choice.float_layers | renamed(candidate.layers, int8)
        return None if layers in (choice.float_layers, int8) else replace(choice, float_layers=layers)

    def prepare(self, choice: Choice) -> None:
        """See `benchmarks.tuning.Workbench`: quantise and export."""
        self._of(choice)

    def race(self, before: Choice, after: Choice, rounds: Rounds) -> Race:
        """See `benchmarks.tuning.Workbench`; at the batch that the engine is built for, or one sample."""
        first, second = (before, after) if self._races % 2 else (after, before)
        self._races += 1
        order = (first, second, second, first)
        engines = {str(index): self.engine(choice) for index, choice in enumerate(order)}
        timed = self._timed(engines, rounds)
        pairs = [[timed[str(i)].raw_ms for i in places] for places in ((0, 3), (1, 2))]
        outer, inner = (Latency.from_samples(np.mean(pair, axis=0)) for pair in pairs)
        return Race(outer, inner) if first == before else Race(inner, outer)

    def _timed(self, engines: Mapping[str, Engine], rounds: Rounds) -> Mapping[str, Latency]:
        denoiser, batch = self.job.denoiser, tuning_batch(self.job)
        middle = denoiser.schedule.num_train_timesteps // 2
        pairs = noise(denoiser, batch, middle, batch)
        on_gpu = {name: engine for name, engine in engines.items() if isinstance(engine, GpuEngine)}
        if len(on_gpu) == len(engines):
            return race_gpu_steps(on_gpu, pairs, rounds)
        (step,) = measure_steps(engines, [pairs], rounds, [middle])
        return step.candidates

    def sqnr_db(self, choice: Choice) -> float:
        """See `benchmarks.tuning.Workbench`; infinite where no layer is int8."""
        prepared = self._of(choice)
        reference = prepared.variant.subject.module
        kept = [parts for name, parts in prepared.parts.items() if name not in choice.float_layers]
        layers = {path: part for parts in kept for path, part in parts.items() if _is_placed(part, choice)}
        if not layers:
            return math.inf
        return median_sqnr_db(reference, with_layers(reference, layers), self._held_out)

    def engine(self, choice: Choice) -> Engine:
        """A new engine of a choice; what could be kept of the last few builds is not done again."""
        source = self._graph(choice)
        runtime, options = self.job.runtime, self.job.own_options
        if runtime.device == "gpu":  # judged as it is timed in the end: built for one batch
            options = replace(options, batch=tuning_batch(self.job))
        return runtime.build(source, source.parent, options)

    def _graph(self, choice: Choice) -> Path:
        """The ONNX file of a choice."""
        if choice not in self._folders:
            self._folders[choice] = scratch_folder()
            self._export(choice, Path(self._folders[choice].name, GRAPH))
            if len(self._folders) > GRAPHS_KEPT:
                self._folders.popitem(last=False)[1].cleanup()
        self._folders.move_to_end(choice)
        return Path(self._folders[choice].name, GRAPH)

    def _export(self, choice: Choice, path: Path) -> None:
        prepared = self._of(choice)
        reference = prepared.variant.subject.module
        graph = prepared.graph.clone()
        points = grid_points(reference)
        gone = {name: point for name, point in points.items() if owner_of(name, point) in choice.float_layers}
        DropGrids(gone | {name: point for name, point in points.items() if not _is_placed(point, choice)})(graph)
        FloatLayers({name: reference.get_submodule(name) for name in choice.float_layers})(graph)
        lay_out(graph, self.job.target.scheme_for(self.job.options, choice.placements))
        self.job.runtime.write(finished(graph, self.job), path)

    def _of(self, choice: Choice) -> _Quantised:
        if choice.split_shortcut not in self._quantised:
            variant = open_variant(self.job, choice.split_shortcut, self._placements)
            self._quantised[choice.split_shortcut] = self._quantise(variant)
        return self._quantised[choice.split_shortcut]

    @property
    def _placements(self) -> frozenset[str]:
        """Those that ask for every grid that a choice may have."""
        return self.job.plan.placements | (
            frozenset(GRID_PLACEMENTS) if "--placement" in self.job.runtime.takes else frozenset()
        )

    def _quantise(self, variant: Variant) -> _Quantised:
        job, options = self.job, self.job.options
        method = Method(job.scheme, options.metric, None, options.seed)
        store = UnitStore(load=lambda _: None, save=lambda _, __: None)
        subject = variant.subject.on(find_device(options.device))
        model = quantise(subject, variant.sites, self._pairs, method, store, lambda _: None).cpu()
        graph = export_graph(job.denoiser, model)
        fold_time(graph, job.denoiser)
        return _Quantised(variant, integer_parts(model), graph)


def _is_placed(part: nn.Module, choice: Choice) -> bool:
    """Whether the choice has it, where it is a grid."""
    return not isinstance(part, GridPoint) or part.place.placement in choice.placements


def tuning_batch(job: Job) -> int:
    """The batch at which choices are timed: that for which the engine is best, or one sample."""
    return job.own_options.usual_batch or 1


def open_variant(job: Job, split: bool, placements: Collection[str]) -> Variant:
    """The job's network in one of its forms, with the grids of `placements`; what `--keep-float` named in the other
    form stays float in this one."""
    subject = open_subject(job.plan.denoiser, split, job.target.scheme_for(job.options, placements))
    if split == job.options.split_shortcut:
        return Variant(subject, job.sites)
    sites = with_tokens(find_sites(subject, job.scheme), {site.name for site in job.sites if site.by_token})
    asked = frozenset(site.name for site in job.sites if site.keep_float == ASKED)
    kept = renamed(asked, frozenset(site.name for site in sites))
    return Variant(subject, tuple(replace(it, keep_float=it.keep_float or ASKED * (it.name in kept)) for it in sites))


def renamed(layers: frozenset[str], names: frozenset[str]) -> frozenset[str]:
    """Those of `names` that compute what `layers` do, be it in the other form: `a`, or its halves `a.first` and
    `a.second`."""
    wholes = {name.removesuffix(".first") for name in layers}
    joint = frozenset(name for name in wholes if {f"{name}.first", f"{name}.second"} <= layers)
    halves = frozenset(f"{name}.{half}" for name in layers for half in ("first", "second"))
    return names & (layers | joint | halves)
