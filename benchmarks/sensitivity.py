"""What each quantised layer costs on its own: the network in full precision but for that one layer and its grids.

The noise of layers adds up almost without correlation, so the worst of this ranking are the first to keep in float;
how many it takes is then measured, not predicted.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from torch import nn

from ptq_export.benchmarks.fidelity import sqnr_per_timestep
from ptq_export.benchmarks.held_out import HeldOut
from ptq_export.errors import InputError
from ptq_export.nn.share import share

__all__ = [
    "LayerNoise",
    "Parts",
    "fewest_float",
    "layer_noise",
    "median_sqnr_db",
    "noise_shares",
    "with_layers",
]

Parts = Mapping[str, nn.Module]
"""An integer layer and the grids that come and go with it, by module path."""


@dataclass(frozen=True)
class LayerNoise:
    """One layer quantised alone: median SQNR of eps over the time-steps, and its share of all layers' noise there.

    Medians, because a median is what is wanted of the whole: near t = 0 a few layers make most of the noise.
    """

    name: str
    sqnr_db: float
    share: float


def layer_noise(
    reference: nn.Module, layers: Mapping[str, Parts], held_out: HeldOut, progress: Callable[[float], None]
) -> list[LayerNoise]:
    """Every one of `layers` (by path, each with what comes with it) in `reference` alone, the loudest first."""
    alone = {name: with_layers(reference, parts) for name, parts in layers.items()}
    curves = sqnr_per_timestep(reference, alone, held_out, progress)
    noise = {name: median((curve.noise.sum(1) / curve.signal.sum(1)).tolist()) for name, curve in curves.items()}
    total = sum(noise.values()) or 1.0
    loudest = sorted(noise, key=lambda name: -noise[name])
    return [LayerNoise(name, median(curves[name].sqnr_db), noise[name] / total) for name in loudest]


def noise_shares(
    reference: nn.Module, every: Parts, groups: Mapping[str, Parts], held_out: HeldOut
) -> dict[str, float]:
    """The noise of each group of layers alone, as a share of that of all layers together: medians over the
    time-steps."""
    models = {name: with_layers(reference, parts) for name, parts in groups.items()}
    whole = sqnr_per_timestep(reference, {"every": with_layers(reference, every)}, held_out)["every"]
    curves = sqnr_per_timestep(reference, models, held_out)
    return {name: median((curve.noise.sum(1) / whole.noise.sum(1)).tolist()) for name, curve in curves.items()}


def fewest_float(
    reference: nn.Module, layers: Mapping[str, Parts], ranking: Sequence[str], wanted_db: float, held_out: HeldOut
) -> list[str]:
    """The shortest head of `ranking` (names, the loudest first) without which the others reach `wanted_db`.

    Found by bisection, each length measured: a median over the time-steps of `held_out`.

    Raises:
        InputError: not even one layer may be int8.
    """

    def reached_db(count: int) -> float:
        kept = {path: part for name in ranking[count:] for path, part in layers[name].items()}
        return median_sqnr_db(reference, with_layers(reference, kept), held_out)

    few, many = -1, len(ranking)  # `few` does not reach it, `many` does: in full precision nothing is lost
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if reached_db(middle) >= wanted_db else (middle, many)
    if many == len(ranking):
        best = reached_db(many - 1)
        raise InputError(f"no layer can be int8 at {wanted_db:g} dB", f"one alone reaches {best:.1f} dB: ask for less")
    return list(ranking[:many])


def median_sqnr_db(reference: nn.Module, model: nn.Module, held_out: HeldOut) -> float:
    """Median over the time-steps of the SQNR of eps."""
    return median(sqnr_per_timestep(reference, {"model": model}, held_out)["model"].sqnr_db)


def with_layers(reference: nn.Module, layers: Parts) -> nn.Module:
    """`reference` with `layers` in the places of its own; all tensors are shared."""
    model = share(reference)
    for name, layer in layers.items():
        model.set_submodule(name, layer)
    return model
