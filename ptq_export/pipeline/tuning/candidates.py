"""What tuning tries: groups of int8 layers that may be faster in float, those first that promise most.

Layers that do the same work gain the same, and neighbours share the price of changing between int8 and float; so
layers are tried in groups of one kind, of one size, of the same work, of one unit, and one by one.

An int8 convolution of ONNX Runtime without the Q on its output is no candidate: it runs in float there, with the noise
and the cost of its other quantisers (`engines.ort_layers` reads back "no Q on its output").
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from ptq_export.calibrators.sites import Unit, hooked
from ptq_export.denoiser import Denoiser
from ptq_export.nn.probe import blank
from ptq_export.pipeline.tuning.race import Candidate

__all__ = ["LayerTimes", "Work", "find_work", "group_candidates"]


@dataclass(frozen=True)
class Work:
    """What a layer computes: `kind` (`3x3 convolution`, `linear`), its weight's shape, the size of its result (H, W, or
    the rows of a linear), and how many numbers of a sample it reads and writes."""

    kind: str
    shape: tuple[int, ...]
    size: tuple[int, ...]
    moved: int


@dataclass(frozen=True)
class LayerTimes:
    """Milliseconds per layer in the int8 and in the float engine, and of their whole steps."""

    int8_ms: Mapping[str, float]
    float_ms: Mapping[str, float]
    int8_step_ms: float
    float_step_ms: float

    @property
    def overhead_ms(self) -> float:
        """What the int8 step spends outside its layers more than the float step does: quantising, changing layouts."""
        return (self.int8_step_ms - sum(self.int8_ms.values())) - (self.float_step_ms - sum(self.float_ms.values()))


def find_work(denoiser: Denoiser, names: Sequence[str]) -> dict[str, Work]:
    """What each of these layers computes for one sample."""
    layers = {name: denoiser.module.get_submodule(name) for name in names}
    found: dict[str, Work] = {}

    def record(name: str, inputs: Any, output: Tensor) -> None:
        found.setdefault(name, _work(layers[name], inputs[0], output))

    with hooked(layers, record):
        blank(denoiser).through(denoiser)
    return {name: found[name] for name in names}


def _work(layer: nn.Module, x: Tensor, y: Tensor) -> Work:
    convolution = isinstance(layer, nn.Conv2d)
    kind = f"{'x'.join(map(str, layer.kernel_size))} convolution" if isinstance(layer, nn.Conv2d) else "linear"
    size = tuple(y.shape[2:]) if convolution else (y.shape[:-1].numel(),)
    return Work(kind, tuple(layer.get_parameter("weight").shape), size, x.numel() + y.numel())


def group_candidates(work: Mapping[str, Work], units: Sequence[Unit], times: LayerTimes) -> list[Candidate]:
    """Every group once, the greatest expected gain first."""
    expected_ms = _expected_ms(work, times)
    unit_of = {name: unit.name for unit in units for name in unit.sites}
    winners = [name for name in work if expected_ms[name] > 0]
    groups = {frozenset(winners): "all that promise a gain"} if winners else {}
    for title in (
        lambda _, it: f"{it.kind}s",
        lambda _, it: f"{it.kind.split()[-1]}s of size {'x'.join(map(str, it.size))}",
        lambda _, it: f"{it.kind}s {it.shape[1]} to {it.shape[0]} of size {'x'.join(map(str, it.size))}",
        lambda name, _: unit_of[name],
        lambda name, _: name,
    ):
        for label, names in _grouped(work, title).items():
            groups.setdefault(frozenset(names), label)
    found = [Candidate(label, names, sum(expected_ms[name] for name in names)) for names, label in groups.items()]
    return sorted(found, key=lambda candidate: -candidate.expected_ms)


def _grouped(work: Mapping[str, Work], title: Callable[[str, Work], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, it in work.items():
        groups.setdefault(title(name, it), []).append(name)
    return groups


def _expected_ms(work: Mapping[str, Work], times: LayerTimes) -> dict[str, float]:
    """Gain of a layer in float: its kernels' difference, and its share of the overhead by the numbers that it moves."""
    moved = sum(it.moved for it in work.values())
    return {
        name: times.int8_ms.get(name, 0.0) - times.float_ms.get(name, 0.0) + times.overhead_ms * it.moved / moved
        for name, it in work.items()
    }
