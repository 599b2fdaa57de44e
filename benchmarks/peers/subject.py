"""What every peer gets: the FP32 graph, the calibration pairs and the list of layers of one or more finished runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from torch import Tensor

from ptq_export.artifacts import inside, sha256_file
from ptq_export.benchmarks.peers.step_graph import step_feeds, step_graph, value_gains
from ptq_export.conditions import draw
from ptq_export.denoiser import NoiseSchedule
from ptq_export.engines.exported_layers import open_graph
from ptq_export.engines.signature import read_signature
from ptq_export.errors import InputError
from ptq_export.guidance import Guidance
from ptq_export.interface import SAMPLE, TIMESTEP, Input, inputs_from_json
from ptq_export.pipeline.commands.reopened import finished_manifest, read_schedule
from ptq_export.schemas import MANIFEST, read_part
from ptq_export.targets import FP32

__all__ = ["PAIRS", "TARGETS", "Own", "Subject", "open_subject"]

PAIRS = "pairs.safetensors"
TARGETS = ("ort-int8", "openvino-int8")


@dataclass(frozen=True)
class Own:
    """One of our int8 graphs, and the seconds that its run spent on making it from the pairs.

    `gains`: what it reads of conditions are these multiples of what the FP32 graph reads.
    """

    target: str
    graph: Path
    seconds: float
    gains: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)


@dataclass(frozen=True)
class Subject:
    """One network with its calibration pairs.

    `layers` are the convs and linears that are int8 in our engines, `float_layers` all others of the FP32 graph; both
    by module path. `folder` is the first run's. `graph` is the FP32 graph, its time embedding folded into a table.
    Beside a prompt graph it is that of a step, and its `conditions`, those of the pairs in `pairs_file` too, are what
    the prompt graph makes. Samples are guided by `scale`: then every second pair is a call without conditions.
    """

    spec: str
    folder: Path
    schedule: NoiseSchedule
    sample_shape: tuple[int, ...]
    conditions: tuple[Input, ...]
    layers: tuple[str, ...]
    float_layers: tuple[str, ...]
    pairs_sha256: str
    graph_sha256: str
    own: tuple[Own, ...]
    graph: Path
    pairs_file: Path
    scale: float | None = None

    @property
    def is_step(self) -> bool:
        """Whether the graph is a part of the network: then what takes the network itself cannot be compared."""
        return self.graph.parent != self.folder

    @property
    def is_trained(self) -> bool:
        """Whether its images mean anything."""
        return not self.spec.startswith("random:")

    @property
    def draws_digits(self) -> bool:
        """Whether a digit-FID can be told."""
        return self.spec == "embedded:digits"

    def pairs(self) -> dict[str, NDArray[Any]]:
        """The calibration pairs, every input by its name, in the graph's order."""
        found = load_file(self.pairs_file)
        return {name: found[name] for name in (SAMPLE, TIMESTEP, *(it.name for it in self.conditions))}

    def draw(self, count: int, seed: int) -> dict[str, Tensor]:
        """Conditions of `count` samples: those of the calibration pairs, or labels of all classes."""
        pairs, step = self.pairs(), 1 if self.scale is None else 2
        examples = {it.name: torch.from_numpy(pairs[it.name][::step]) for it in self.conditions if it.limit is None}
        return draw(self.conditions, examples, count, seed)

    def as_read(self, graph: Path | None, feeds: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """What a model made of `graph` reads for `feeds` of the FP32 graph."""
        gains = next((own.gains for own in self.own if own.graph == graph), {})
        return {name: value * gains[name] if name in gains else value for name, value in feeds.items()}

    @property
    def guidance(self) -> Guidance | None:
        """Under which samples are drawn."""
        if self.scale is None:
            return None
        pairs = self.pairs()
        return Guidance(self.scale, {it.name: torch.from_numpy(pairs[it.name][1:2]) for it in self.conditions})


def open_subject(folders: Sequence[Path], made: Path) -> Subject:
    """The subject of finished runs of one network, for targets on the CPU; what has to be made of their graphs is made
    in the folder `made`.

    Raises:
        InputError: a run is not finished, is for another target, or differs from the first in its network, its pairs
            or its int8 layers; or the FP32 graph does not have those.
    """
    runs = [_read(folder) for folder in folders]
    first = runs[0]
    targets = [run.target for run in runs]
    if len(set(targets)) < len(targets):
        raise InputError(f"two of the runs are for {max(targets, key=targets.count)}", "give one run per target")
    for run in runs[1:]:
        _refuse_other(first, run)
    graph = open_graph(first.folder / FP32, {})
    absent = sorted(set(first.layers) - set(graph.layers))
    if absent or not first.layers:
        missing = ", ".join(absent) or "that is int8"
        raise InputError(f"{FP32} has no layer {missing}", "compare a run without --split-shortcut")
    denoiser = first.denoiser
    sample, _, *conditions = inputs_from_json(denoiser["inputs"], str(first.folder / MANIFEST))
    text = denoiser.get("text")
    subject = Subject(
        spec=denoiser["spec"],
        folder=first.folder,
        schedule=first.schedule,
        sample_shape=tuple(int(size) for size in sample.shape),
        conditions=tuple(conditions),
        layers=first.layers,
        float_layers=tuple(name for name in graph.layers if name not in first.layers),
        pairs_sha256=sha256_file(first.folder / PAIRS),
        graph_sha256=sha256_file(first.folder / FP32),
        own=tuple(Own(run.target, run.folder / f"denoiser.{run.target}.onnx", run.seconds) for run in runs),
        graph=first.folder / FP32,
        pairs_file=first.folder / PAIRS,
        scale=text["scale"] if text and text["scale"] != 1 else None,
    )
    return subject if read_signature(subject.graph).prompt is None else _step_of(subject, made)


def _step_of(subject: Subject, made: Path) -> Subject:
    """The subject whose graphs are those of a step."""
    pairs, signature = subject.pairs(), read_signature(subject.graph)
    assert signature.prompt is not None
    feeds, values = step_feeds(subject.graph, pairs), [value.name for value in signature.prompt.values]
    exact = {name: feeds[name] for name in values}
    made.mkdir(parents=True, exist_ok=True)
    save_file(feeds, made / PAIRS)
    return replace(
        subject,
        conditions=signature.prompt.step_inputs(signature.inputs)[2:],
        own=tuple(
            replace(own, graph=step_graph(own.graph, made), gains=value_gains(exact, step_feeds(own.graph, pairs)))
            for own in subject.own
        ),
        graph=step_graph(subject.graph, made),
        pairs_file=made / PAIRS,
    )


@dataclass(frozen=True)
class _Run:
    folder: Path
    target: str
    denoiser: Mapping[str, Any]
    schedule: NoiseSchedule
    layers: tuple[str, ...]
    seconds: float


def _read(folder: Path) -> _Run:
    manifest = finished_manifest(folder)
    target = str(manifest["target"])
    if target not in TARGETS:
        raise InputError(f"{folder} is a run of {target}", f"the peers run on the CPU: give {' or '.join(TARGETS)}")
    for name in (FP32, f"denoiser.{target}.onnx", PAIRS):
        if not inside(folder, name).is_file():
            raise InputError(f"{folder / name} does not exist", "make the run again, in a new folder")
    rows = read_part(folder, "layers.json")["layers"]
    layers = tuple(row["name"] for row in rows if row["precision"] == "int8")
    stages = manifest["timings_s"].items()
    seconds = sum(value for name, value in stages if name.startswith(("calibration, ", "ONNX export")))
    return _Run(folder.resolve(), target, manifest["denoiser"], read_schedule(manifest, folder), layers, seconds)


def _refuse_other(first: _Run, other: _Run) -> None:
    remedy = "make both runs with the same --ckpt, --seed, --samples, --steps and --policy"
    if other.denoiser["sha256"] != first.denoiser["sha256"]:
        raise InputError(f"{other.folder} is a run of another checkpoint than {first.folder}", remedy)
    if not _same_tensors(load_file(first.folder / PAIRS), load_file(other.folder / PAIRS)):
        raise InputError(f"{other.folder} was calibrated on other pairs than {first.folder}", remedy)
    if sha256_file(other.folder / FP32) != sha256_file(first.folder / FP32):
        raise InputError(f"{FP32} of {other.folder} is not that of {first.folder}", remedy)
    if set(other.layers) != set(first.layers):
        differing = ", ".join(sorted(set(other.layers) ^ set(first.layers))[:5])
        raise InputError(
            f"{other.folder} and {first.folder} differ in which layers are int8: {differing}",
            "make both with the same --keep-float, or compare them one by one",
        )


def _same_tensors(first: Mapping[str, NDArray[Any]], second: Mapping[str, NDArray[Any]]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[name], second[name]) for name in first)
