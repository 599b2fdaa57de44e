"""A denoiser as a value: the module `(sample, timestep[, label]) -> eps`, its noise schedule, and its origin."""

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ptq_export.errors import InputError

__all__ = ["Convention", "Denoiser", "NoiseSchedule", "Source", "UNetEps", "draw_labels"]


@dataclass(frozen=True)
class Convention:
    """How one sampler runs in the code of a family's authors, where diffusers' scheduler of that name runs otherwise.

    `timesteps` names the rule by which S of the T time-steps are kept (`KEPT` in `sampling`); the betas between them
    are taken again from their alphas, and alpha before the first is 1. `clip_sample` clips x_0 to [-1, 1], and
    `clipped_eps` takes eps again from the clipped x_0.
    """

    timesteps: str
    clip_sample: bool = True
    clipped_eps: bool = False


@dataclass(frozen=True)
class NoiseSchedule:
    """The forward process q(x_t | x_0) of a checkpoint, its reverse variance, and how it is sampled, in diffusers'
    vocabulary.

    Where `variance_type` is learned, the network makes twice the channels: eps, then what DDPM's variance is made of;
    `dropped_variance` is that type where these channels have been cut off. `clip_sample` says that samples are images
    in [-1, 1] (or `clip_sample_range`); latents have no such range. `scheduler` is the class that a
    scheduler_config.json names and `settings` what that says further. `conventions`, by sampler, go before both.
    """

    num_train_timesteps: int = 1000
    beta_schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    prediction_type: str = "epsilon"
    clip_sample: bool = True
    variance_type: str = "fixed_small"
    clip_sample_range: float = 1.0
    trained_betas: tuple[float, ...] | None = None
    rescale_betas_zero_snr: bool = False
    dropped_variance: str = ""
    scheduler: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    conventions: Mapping[str, Convention] = field(default_factory=dict, hash=False)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "NoiseSchedule":
        """The schedule that `to_json` told.

        Raises:
            InputError: it has other fields.
        """
        try:
            betas = value.get("trained_betas")
            conventions = {name: Convention(**each) for name, each in value.get("conventions", {}).items()}
            changed = {"trained_betas": None if betas is None else tuple(betas), "conventions": conventions}
            return cls(**{**value, **changed})
        except (TypeError, AttributeError) as error:
            raise InputError(f"the noise schedule cannot be read: {error}", "make the run again") from error

    def to_json(self) -> dict[str, Any]:
        """The schedule as JSON holds it, so that it can be compared with what was read."""
        return {**asdict(self), "trained_betas": None if self.trained_betas is None else list(self.trained_betas)}

    @property
    def learns_variance(self) -> bool:
        return self.variance_type.startswith("learned")

    @property
    def sample_range(self) -> tuple[float, float] | None:
        """The range in which final samples lie, if the schedule says so: they are images then."""
        if self.settings.get("thresholding"):
            return (-1.0, 1.0)
        return (-self.clip_sample_range, self.clip_sample_range) if self.clip_sample else None


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

    `module` maps a sample `[N, C, H, W]` (float32), time-steps `[N]` (int64, original training steps) and, if
    `classes` is given, labels `[N]` (int64, 0..classes-1) to eps `[N, C, H, W]`, or to `[N, 2 C, H, W]` where
    `schedule.learns_variance`; it is in evaluation mode, and on the CPU where `on` did not move it. `sample_shape` is
    `(C, H, W)`.
    """

    module: nn.Module
    schedule: NoiseSchedule
    sample_shape: tuple[int, int, int]
    source: Source
    classes: int | None = None

    @torch.no_grad()
    def __call__(self, sample: Tensor, timestep: Tensor, *label: Tensor) -> Tensor:
        """The module's output, on the device of `sample`, wherever the module itself is."""
        output: Tensor = self.module(*(value.to(self.device) for value in (sample, timestep, *label)))
        return output.to(sample.device)

    @property
    def device(self) -> torch.device:
        """Where the module computes."""
        return next((tensor.device for tensor in self.module.parameters()), torch.device("cpu"))

    def on(self, device: torch.device) -> "Denoiser":
        """The denoiser on `device`: itself if it is there, else a copy."""
        return self if self.device == device else replace(self, module=copy.deepcopy(self.module).to(device))

    def labels(self, count: int, seed: int) -> tuple[Tensor, ...]:
        """See `draw_labels`."""
        return draw_labels(self.classes, count, seed)


def draw_labels(classes: int | None, count: int, seed: int) -> tuple[Tensor, ...]:
    """Labels `[count]` drawn from all classes, as the further argument that they are: none if there are no classes."""
    if classes is None:
        return ()
    return (torch.randint(classes, (count,), generator=torch.Generator().manual_seed(seed)),)


class UNetEps(nn.Module):
    """A diffusers `UNet2DModel` as a plain function of (sample, timestep[, label]) that returns the tensor.

    The network itself sees `timestep * time_scale`: OpenAI's nets of T = 4000 know the times 0..1000.
    """

    def __init__(self, unet: nn.Module, time_scale: float = 1.0) -> None:
        super().__init__()
        self.unet = unet
        self.time_scale = time_scale

    def forward(self, sample: Tensor, timestep: Tensor, label: Tensor | None = None) -> Tensor:
        """The output `[N, C, H, W]` or `[N, 2 C, H, W]` for a sample `[N, C, H, W]` at time-steps `[N]`."""
        time = timestep if self.time_scale == 1 else timestep * self.time_scale
        output: Tensor = self.unet(sample, time, class_labels=label, return_dict=False)[0]
        return output
