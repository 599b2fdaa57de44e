"""Two passes of the full-precision network over the calibration pairs: first the limits, then the histograms."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptq_export.calibrators.finite import require_usable
from ptq_export.calibrators.histogram import ChannelHistogram, ChannelRange
from ptq_export.calibrators.rounding import on_rows
from ptq_export.calibrators.sites import hooked
from ptq_export.denoiser import Denoiser
from ptq_export.nn.scheme import Scheme
from ptq_export.pairs import Pairs

__all__ = ["Observation", "observe"]

BATCH = 16


@dataclass
class Observation:
    """What one layer reads, or what goes through a place for a grid, and what the layer makes where the scheme has a
    grid there (None: it has none)."""

    input: ChannelHistogram
    output: ChannelHistogram | None


def observe(
    denoiser: Denoiser,
    pairs: Pairs,
    names: tuple[str, ...],
    scheme: Scheme,
) -> dict[str, Observation]:
    """Histograms of the inputs and outputs of the layers, and of the places for grids, that are called `names`.

    Raises:
        InputError: a layer reads or makes values that no range can be found for.
    """
    limits: dict[tuple[str, str], ChannelRange] = {}

    def widen(key: tuple[str, str], x: Tensor, timestep: Tensor) -> None:
        require_usable(key[0], x, timestep)
        if key in limits:
            limits[key].update(x)
        else:
            limits[key] = ChannelRange.of(x)

    _visit(denoiser, pairs, names, scheme, widen)
    histograms = {}
    for (name, role), found in limits.items():
        channelwise = _channelwise(denoiser.module.get_submodule(name), role, scheme)
        histograms[name, role] = ChannelHistogram(found if channelwise else found.per_tensor())
    _visit(denoiser, pairs, names, scheme, lambda key, x, _: histograms[key].update(x))
    return {name: Observation(histograms[name, "input"], histograms.get((name, "output"))) for name in names}


def _channelwise(layer: nn.Module, role: str, scheme: Scheme) -> bool:
    granularity = scheme.conv_input if role == "input" else scheme.conv_output
    return isinstance(layer, nn.Conv2d) and granularity == "channel"


def _has_output_grid(layer: nn.Module, scheme: Scheme) -> bool:
    return isinstance(layer, nn.Conv2d) and scheme.conv_output is not None and not on_rows(layer, scheme)


def _visit(
    denoiser: Denoiser,
    pairs: Pairs,
    names: tuple[str, ...],
    scheme: Scheme,
    visit: Callable[[tuple[str, str], Tensor, Tensor], None],
) -> None:
    layers = {name: denoiser.module.get_submodule(name) for name in names}
    timestep = pairs.timestep

    def hook(name: str, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        visit((name, "input"), inputs[0], timestep)
        if _has_output_grid(layers[name], scheme):
            visit((name, "output"), output, timestep)

    with hooked(layers, hook), torch.no_grad():
        for batch in pairs.batches(BATCH):
            timestep = batch.timestep
            batch.through(denoiser)
