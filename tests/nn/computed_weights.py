"""Nets whose layers compute their weights, as people write them; each is one net around another such layer."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

from ptq_export.denoiser import Denoiser, NoiseSchedule, Source

CHANNELS = 6


class Standardised(nn.Conv2d):
    """Weight standardisation (arXiv:1903.10520): zero mean and unit variance per output channel, in `forward`."""

    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        variance = self.weight.var((1, 2, 3), unbiased=False, keepdim=True)
        return self._conv_forward(x, (self.weight - mean) * (variance + 1e-5).rsqrt(), self.bias)


class Gained(nn.Linear):
    """A fan-in gain at run time (EDM2, StyleGAN), and a keyword that changes nothing."""

    def forward(self, rows: Tensor, gain: float = 2.0) -> Tensor:
        return gain * functional.linear(rows, self.weight / self.in_features**0.5, self.bias)


class LowRank(nn.Module):
    """A base layer and a low-rank one beside it (LoRA, arXiv:2106.09685), as adapter libraries keep them."""

    def __init__(self, base: nn.Conv2d) -> None:
        super().__init__()
        self.base_layer, self.scaling = base, 0.5
        down = nn.Conv2d(CHANNELS, 2, base.kernel_size, base.stride, base.padding, bias=False)
        self.lora_A = nn.ModuleDict({"default": down})
        self.lora_B = nn.ModuleDict({"default": nn.Conv2d(2, CHANNELS, 1, bias=False)})

    def forward(self, x: Tensor, *args: Any) -> Tensor:
        added: Tensor = self.lora_B["default"](self.lora_A["default"](x))
        return self.base_layer(x) + self.scaling * added


class Squared(nn.Conv2d):
    """No linear map at all: the square of a convolution."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square()


class Timed(nn.Module):
    """stem, the layer, norm, rows, head; `call` is how the layer is called."""

    def __init__(self, layer: nn.Module, rows: nn.Module, call: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.layer, self.norm = nn.Conv2d(2, CHANNELS, 3, padding=1), layer, nn.GroupNorm(2, CHANNELS)
        self.rows, self.head, self.time = rows, nn.Conv2d(CHANNELS, 2, 1), nn.Linear(1, CHANNELS)
        self.call = call

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        shift = self.time(timestep.float()[:, None] / 1000)[:, :, None, None]
        x = functional.silu(self.norm(self.call(self.layer, self.stem(sample) + shift)))
        x = self.rows(x.movedim(1, -1)).movedim(-1, 1)
        eps: Tensor = self.head(functional.silu(functional.interpolate(x, sample.shape[-2:])))
        return eps


def _conv(kind: type[nn.Conv2d] = nn.Conv2d, **options: Any) -> nn.Conv2d:
    return kind(CHANNELS, CHANNELS, 3, **{"padding": 1} | options)


def _pruned(layer: nn.Module) -> nn.Module:
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


LAYERS: dict[str, Callable[[], nn.Module]] = {
    "standardised": lambda: _conv(Standardised),
    "standardised, strided and dilated": lambda: _conv(Standardised, stride=(2, 1), dilation=(1, 2), padding=(0, 2)),
    "standardised, circular": lambda: _conv(Standardised, padding_mode="circular"),
    "standardised, padding same": lambda: _conv(Standardised, padding="same", bias=False),
    "weight norm": lambda: parametrizations.weight_norm(_conv()),
    "weight norm by a hook": lambda: weight_norm(_conv()),
    "spectral norm": lambda: parametrizations.spectral_norm(_conv()),
    "spectral norm by a hook": lambda: spectral_norm(_conv()),
    "pruned by a hook": lambda: _pruned(_conv()),
    "low-rank sum": lambda: LowRank(_conv()),
    "own square": lambda: _conv(Squared),
}


def net_of(
    layer: Callable[[], nn.Module],
    rows: Callable[[], nn.Module] = lambda: Gained(CHANNELS, CHANNELS),
    call: Callable[[nn.Module, Tensor], Tensor] = lambda layer, x: layer(x),
) -> Denoiser:
    """The net around one such layer, on samples `[N, 2, 6, 6]`."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Timed(layer(), rows(), call).eval().requires_grad_(False)
    return Denoiser(module, NoiseSchedule(), (2, 6, 6), Source("toy", "toy", "0" * 64))
