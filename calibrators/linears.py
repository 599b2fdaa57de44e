"""How the input of each linear is quantised: by measured error, one rule for all, on what calibration meets.

For a tensor of C channels that int8 layers read, gains s_c = a_c^alpha / w_c^(1 - alpha) are tried for every alpha in
`ALPHAS` (SmoothQuant, arXiv:2211.10438, eq. 4; a_c is the channel's largest magnitude, w_c that of its weights, each
output's row in units of its own largest); and for linears, a step per token beside one for all. Each trial is the
layers' own quantisation in the target's scheme, rounded to nearest; its error the noise of their results, biases
corrected.

1. Gains are taken from the best alpha if they leave at most `BALANCED` of the noise without.
2. A step per token is proposed if it then leaves at most `TOKEN` of what one step for all leaves. It costs time in
   every step, so whether the network gains by it is for the caller to find out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ptq_export.calibrators.histogram import ChannelHistogram, ChannelRange, channels_first
from ptq_export.calibrators.observe import Observation
from ptq_export.calibrators.quantise import Method, soft_layer
from ptq_export.calibrators.readings import find_readings
from ptq_export.calibrators.rounding import SoftLayer
from ptq_export.calibrators.sites import Site, hooked
from ptq_export.denoiser import Denoiser
from ptq_export.device import exact_floats
from ptq_export.nn.balance import Reading
from ptq_export.nn.scheme import Scheme
from ptq_export.nn.share import share
from ptq_export.pairs import Pairs

__all__ = ["ALPHAS", "BALANCED", "TOKEN", "LinearChoice", "choose_linears"]

ALPHAS = (0.25, 0.5, 0.75, 1.0)
BALANCED = 0.9
TOKEN = 0.7
WIDEST = 256.0
BATCH, NUMBERS, FEWEST = 16, 1 << 19, 256


@dataclass(frozen=True)
class LinearChoice:
    """What was chosen for the readers of one tensor: gains `[C]` of `alpha` (None: none), a step per token or one.

    `noise` is that of the readers' results relative to their variance, its mean over them: `tensor` without gains,
    `balanced` with those of the best alpha, `token` with a step per token and the chosen gains.
    """

    reading: Reading
    alpha: float | None
    by_token: bool
    gains: Tensor | None
    noise: Mapping[str, float]


@exact_floats()
@torch.no_grad()
def choose_linears(
    denoiser: Denoiser, sites: Sequence[Site], pairs: Pairs, scheme: Scheme, metric: str, seed: int
) -> list[LinearChoice]:
    """The choice for every tensor that int8 layers with one step per input read."""
    int8 = {site.name for site in sites if not site.keep_float}
    layers = {name: denoiser.module.get_submodule(name) for name in int8}
    judged = {name: layer for name, layer in layers.items() if _is_judged(layer, scheme)}
    readings = find_readings(denoiser, judged)
    rows = _rows(denoiser, pairs.on(denoiser.device), [it.name for it in readings], seed)
    choices = []
    for reading in readings:
        readers = [judged[name] for name in reading.readers if name in judged]
        choices.append(_choice(reading, readers, rows.pop(reading.name), scheme, metric))
    return choices


def _is_judged(layer: nn.Module, scheme: Scheme) -> bool:
    pointwise = isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear) or (pointwise and scheme.conv_input == "tensor")


def _rows(denoiser: Denoiser, pairs: Pairs, names: Sequence[str], seed: int) -> dict[str, Tensor]:
    """Some of the rows `[rows, C]` that each of these layers reads, as many from each batch."""
    generator = torch.Generator().manual_seed(seed)
    layers = {name: denoiser.module.get_submodule(name) for name in names}
    batches = list(pairs.batches(BATCH))
    found: dict[str, list[Tensor]] = {name: [] for name in names}

    def hook(name: str, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        rows = channels_first(inputs[0]).t()
        most = max(NUMBERS // rows.shape[1], FEWEST) // len(batches) + 1
        chosen = torch.randperm(len(rows), generator=generator)[:most]
        found[name].append(rows[chosen.to(rows.device)])

    with hooked(layers, hook):
        for batch in batches:
            batch.through(denoiser)
    return {name: torch.cat(some) for name, some in found.items()}


def _choice(reading: Reading, layers: Sequence[nn.Module], x: Tensor, scheme: Scheme, metric: str) -> LinearChoice:
    gains: dict[float | None, Tensor | None] = {None: None}
    if reading.source:
        gains |= {alpha: _gains(layers, x, alpha) for alpha in ALPHAS}
    tried = {alpha: _noise(layers, x, gain, scheme, metric) for alpha, gain in gains.items()}
    alpha = min(tried, key=tried.__getitem__)
    noise = {"tensor": tried[None], "balanced": tried[alpha]}
    alpha = alpha if tried[alpha] <= BALANCED * tried[None] else None
    if all(isinstance(layer, nn.Linear) for layer in layers):
        noise["token"] = _noise(layers, x, gains[alpha], replace(scheme, linear_input="token"), metric)
    by_token = noise.get("token", tried[alpha]) < TOKEN * tried[alpha]
    return LinearChoice(reading, alpha, by_token, gains[alpha], noise)


def _gains(layers: Sequence[nn.Module], x: Tensor, alpha: float) -> Tensor:
    """s `[C]` around 1, in a range that float16 bears; 1 where a channel is always zero or no weight reads it."""
    weights = torch.cat([_matrix(layer).abs() / _matrix(layer).abs().amax(1, keepdim=True) for layer in layers])
    a, w = x.abs().amax(0), weights.nan_to_num(0.0).amax(0)
    gains = (a**alpha / w ** (1 - alpha)).where((a > 0) & (w > 0), torch.ones_like(a))
    return (gains / gains.log().mean().exp()).clamp(1 / WIDEST, WIDEST)


def _matrix(layer: nn.Module) -> Tensor:
    return layer.get_parameter("weight").detach().flatten(1)


def _noise(layers: Sequence[nn.Module], x: Tensor, gain: Tensor | None, scheme: Scheme, metric: str) -> float:
    """The noise that the layers' quantisation makes of the rows `x`, as a mean share of their results' variance."""
    read = x if gain is None else x / gain
    histogram = ChannelHistogram(ChannelRange.of(read).per_tensor())
    histogram.update(read)
    method, seen, total = Method(scheme, metric, None, 0), Observation(histogram, None), 0.0
    for layer in layers:
        part = layer if gain is None else _multiplied(layer, gain)
        wanted, found = (_result(module, rows) for module, rows in ((layer, x), (soft_layer(part, seen, method), read)))
        error = found - wanted
        noise = (error - error.mean(0)).square().sum() / (wanted - wanted.mean(0)).square().sum().clamp_min(1e-20)
        total += noise.item()
    return total / len(layers)


def _multiplied(layer: nn.Module, gain: Tensor) -> nn.Module:
    part, weight = share(layer), layer.get_parameter("weight")
    scaled = weight.detach() * gain.reshape(1, -1, *[1] * (weight.ndim - 2))
    part.weight = nn.Parameter(scaled, requires_grad=False)
    return part


def _result(layer: nn.Module, rows: Tensor) -> Tensor:
    """`[rows, O]`; for a 1x1 convolution each row is an image of one place."""
    pointwise = layer.layer if isinstance(layer, SoftLayer) else layer
    result: Tensor = layer(rows[..., None, None] if isinstance(pointwise, nn.Conv2d) else rows)
    return result.flatten(1)
