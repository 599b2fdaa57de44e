"""A denoiser as a value: the module `(sample, timestep) -> eps`, its noise schedule, and where it came from."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Denoiser", "NoiseSchedule", "Source", "UNetEps"]


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process q(x_t | x_0) of a checkpoint, in diffusers' vocabulary."""

    num_train_timesteps: int = 1000
    beta_schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction_type: str = "epsilon"
    clip_sample: bool = True


@dataclass(frozen=True)
class Source:
    """Where the weights came from, and everything the user should be told about them."""

    spec: str
    format: str
    sha256: str
    ema: bool | None = None
    notes: tuple[str, ...] = ()
    architecture: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Denoiser:
    """A trained noise predictor.

    `module` maps a sample `[N, C, H, W]` (float32) and time-steps `[N]` (int64, original training steps) to eps
    `[N, C, H, W]`; it is in evaluation mode and on the CPU. `sample_shape` is `(C, H, W)`.
    """

    module: nn.Module
    schedule: NoiseSchedule
    sample_shape: tuple[int, int, int]
    source: Source

    @torch.no_grad()
    def __call__(self, sample: Tensor, timestep: Tensor) -> Tensor:
        eps: Tensor = self.module(sample, timestep)
        return eps


class UNetEps(nn.Module):
    """A diffusers `UNet2DModel` as a plain function of (sample, timestep) that returns the tensor."""

    def __init__(self, unet: nn.Module) -> None:
        super().__init__()
        self.unet = unet

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """eps `[N, C, H, W]` of a sample `[N, C, H, W]` at time-steps `[N]`."""
        eps: Tensor = self.unet(sample, timestep, return_dict=False)[0]
        return eps
