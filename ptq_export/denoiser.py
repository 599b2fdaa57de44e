"""A denoiser as a value: the module `(sample, timestep, **conditions)`, its noise schedule, and its origin."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ptq_export.conditions import Conditions, check_examples, draw, drawn_rows, move
from ptq_export.errors import InputError
from ptq_export.guidance import Guidance, under
from ptq_export.interface import LABEL, SAMPLE, TIMESTEP, Input
from ptq_export.text import Text

__all__ = ["PREDICTIONS", "Absent", "Convention", "Decoder", "Denoiser", "NoiseSchedule", "Source", "UNetEps"]

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow")
"""What a network predicts: the noise, v (arXiv:2202.00512), x_0, or the velocity from x_0 to the noise."""

Decoder = Callable[[Tensor], Tensor]


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
    in [-1, 1] (or `clip_sample_range`); latents have no such range. A `flow` has continuous time-steps 0..T: x_t is
    (1 - t / T) x_0 + t / T noise (arXiv:2210.02747), and the betas say nothing. `scheduler` is the class that a
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
    def sampler(self) -> str:
        """The sampler whose trajectories are calibrated and measured."""
        return "flow-euler" if self.is_flow else "ddim"

    @property
    def is_flow(self) -> bool:
        """Whether time is continuous."""
        return self.prediction_type == "flow"

    def timesteps(self, values: list[float]) -> Tensor:
        """Time-steps `[N]` as the network takes them: whole, but for a flow."""
        return torch.tensor(values, dtype=torch.float32) if self.is_flow else torch.tensor(values).round().long()

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
    """A trained denoiser.

    `module` maps a sample `[N, *sample_shape]` (float32), time-steps `[N]` (int64, original training steps; float32 for
    a flow) and, by their names, its `conditions` `[N, ...]` to its prediction `[N, *sample_shape]`, or to twice the
    channels where `schedule.learns_variance`; it is in evaluation mode, and on the CPU where `on` did not move it.

    Attributes:
        sample_shape: `(C, H, W)`, or `(C, L)` of sequences.
        conditions: What it takes besides.
        examples: Conditions to calibrate and measure with, one row per example; labels need none.
        decoder: From samples that are latents to images `[N, C, H, W]`: pictures and their PSNR go through it.
        text: From prompts to those of its conditions that prompts decide.
        guidance: How it is guided wherever it samples: in calibration, in proofs, in the engine's pictures.
        blocks: Classes of its modules whose rounding is learned as a whole, beside diffusers' residual and attention
            blocks, which always are. Such a module is called once per call of the network, and answers one tensor.

    Raises:
        InputError: an unknown prediction, a condition of a taken name, examples that do not fit, blocks that are none.
    """

    module: nn.Module
    schedule: NoiseSchedule
    sample_shape: tuple[int, ...]
    source: Source
    conditions: tuple[Input, ...] = ()
    examples: Conditions = field(default_factory=dict, hash=False, repr=False)
    decoder: Decoder | None = None
    text: Text | None = None
    guidance: Guidance | None = None
    blocks: tuple[type[nn.Module], ...] = ()

    def __post_init__(self) -> None:
        if self.schedule.prediction_type not in PREDICTIONS:
            told = f"the network predicts {self.schedule.prediction_type!r}, which nothing here can sample"
            raise InputError(told, f"known: {', '.join(PREDICTIONS)}")
        names = [each.name for each in self.inputs]
        if len({*names}) != len(names):
            raise InputError(f"two inputs of the network have one name: {', '.join(names)}", "give each its own")
        check_examples(self.conditions, self.examples)
        if not (isinstance(self.blocks, tuple) and all(isinstance(kind, type) for kind in self.blocks)):
            raise InputError(f"blocks = {self.blocks!r:.200} are no classes", "give a tuple of classes of modules")

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The sample, the time-step, and then the conditions."""
        time = Input(TIMESTEP, "float32" if self.schedule.is_flow else "int64")
        return (Input(SAMPLE, "float32", self.sample_shape), time, *self.conditions)

    @property
    def classes(self) -> int | None:
        """How many labels it knows, where it takes one."""
        return next((each.limit for each in self.conditions if each.name == LABEL), None)

    @torch.no_grad()
    def __call__(self, sample: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        """The module's output, on the device of `sample`, wherever the module itself is."""
        there = move({SAMPLE: sample, TIMESTEP: timestep, **conditions}, self.device)
        output: Tensor = self.module(there.pop(SAMPLE), there.pop(TIMESTEP), **there)
        return output.to(sample.device)

    def guided(self, model: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """What a sampler calls in place of `model`, which is this denoiser, its simulation or its engine."""
        return under(self.guidance, model)

    @property
    def device(self) -> torch.device:
        """Where the module computes."""
        return next((tensor.device for tensor in self.module.parameters()), torch.device("cpu"))

    def on(self, device: torch.device) -> "Denoiser":
        """The denoiser on `device`: itself if it is there, else a copy."""
        return self if self.device == device else replace(self, module=copy.deepcopy(self.module).to(device))

    @property
    def parameters(self) -> int:
        """How many numbers were trained."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    def without_network(self) -> "Denoiser":
        """What remains to be known of it where its engine takes its place: it keeps no weights in memory."""
        text = self.text and self.text.without_network()
        return replace(self, module=Absent(self.parameters), decoder=None, text=text)

    def draw(self, count: int, seed: int) -> dict[str, Tensor]:
        """Conditions of `count` samples; see `conditions.draw`."""
        return draw(self.conditions, self.examples, count, seed)

    def drawn_prompts(self, count: int, seed: int) -> tuple[str, ...]:
        """The prompts that `draw` takes, one per sample; none where it has none."""
        known = self.text.prompts if self.text is not None else ()
        return tuple(known[index] for index in drawn_rows(len(known), count, seed)) if known else ()


class Absent(nn.Module):
    """In place of a network that is not in memory: it has as many parameters, on no device, and computes nothing."""

    def __init__(self, parameters: int = 0) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(parameters, device="meta"), requires_grad=False)

    def forward(self, *_: object) -> object:
        """Raises InputError."""
        raise InputError("this needs the run's network, which was not loaded", "name it: --ckpt")


class UNetEps(nn.Module):
    """A diffusers `UNet2DModel` as a plain function of (sample, timestep[, label, image]) that returns the tensor.

    The network itself sees `timestep * time_scale`: OpenAI's nets of T = 4000 know the times 0..1000.
    """

    def __init__(self, unet: nn.Module, time_scale: float = 1.0) -> None:
        super().__init__()
        self.unet = unet
        self.time_scale = time_scale

    def forward(
        self, sample: Tensor, timestep: Tensor, label: Tensor | None = None, image: Tensor | None = None
    ) -> Tensor:
        """The output `[N, C, H, W]` or `[N, 2 C, H, W]` for a sample `[N, C, H, W]` at time-steps `[N]`; an image
        `[N, ?, H, W]` stands behind the sample."""
        sample = sample if image is None else torch.cat([sample, image], dim=1)
        time = timestep if self.time_scale == 1 else timestep * self.time_scale
        output: Tensor = self.unet(sample, time, class_labels=label, return_dict=False)[0]
        return output
