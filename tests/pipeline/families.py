"""Tiny nets of every shape that the door must let in: factories for `families:NAME`."""

import math

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.interface import Input

WIDTH, TOKENS, TEXT = 32, 5, 24


def time_embedding(timestep: Tensor) -> Tensor:
    """Sines and cosines `[N, WIDTH]` of time-steps `[N]`."""
    frequencies = torch.exp(torch.arange(WIDTH // 2, device=timestep.device) * (-math.log(1e4) / (WIDTH // 2)))
    angles = timestep[:, None].float() * frequencies[None]
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Net(nn.Module):
    """A residual block between two convolutions; `extra` channels are concatenated to the sample."""

    def __init__(self, channels: int = 2, extra: int = 0) -> None:
        super().__init__()
        self.time = nn.Linear(WIDTH, WIDTH)
        self.conv_in = nn.Conv2d(channels + extra, WIDTH, 3, padding=1)
        self.block = ResnetBlock2D(in_channels=WIDTH, temb_channels=WIDTH, groups=8)
        self.conv_out = nn.Conv2d(WIDTH, channels, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return self.conv_out(self.block(self.conv_in(sample), self.time(time_embedding(timestep))))


class TextNet(Net):
    """Cross-attention to a prompt of any number of tokens, some of which are masked."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = Attention(WIDTH, TEXT, heads=4, dim_head=8, bias=True)

    def forward(self, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, mask: Tensor) -> Tensor:
        hidden = self.block(self.conv_in(sample), self.time(time_embedding(timestep)))
        rows = hidden.flatten(2).transpose(1, 2)
        bias = ((1 - mask.to(sample.dtype)) * -10000.0)[:, None]
        rows = rows + self.attention(rows, encoder_hidden_states=encoder_hidden_states, attention_mask=bias)
        return self.conv_out(rows.transpose(1, 2).reshape(hidden.shape))


class LowResNet(Net):
    """A low-resolution image, enlarged and concatenated to the sample, and so are features of it."""

    def __init__(self) -> None:
        super().__init__(extra=2 + 4)
        self.see = nn.Conv2d(2, 4, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor, low_res: Tensor) -> Tensor:
        images = (low_res, nn.functional.silu(self.see(low_res)))
        large = [nn.functional.interpolate(image, scale_factor=2.0, mode="nearest") for image in images]
        return super().forward(torch.cat([sample, *large], dim=1), timestep)


class SequenceNet(nn.Module):
    """A 1-d policy: actions `[N, 3, 16]` under a global vector, halved and doubled in length."""

    def __init__(self) -> None:
        super().__init__()
        self.see = nn.Linear(7, WIDTH)
        self.embed = nn.Linear(2 * WIDTH, WIDTH)
        self.conv_in = nn.Conv1d(3, WIDTH, 5, padding=2)
        self.down = nn.Conv1d(WIDTH, WIDTH, 3, stride=2, padding=1)
        self.norm = nn.GroupNorm(8, WIDTH)
        self.middle = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)
        self.up = nn.ConvTranspose1d(WIDTH, WIDTH, 4, stride=2, padding=1)
        self.conv_out = nn.Conv1d(WIDTH, 3, 5, padding=2)

    def forward(self, sample: Tensor, timestep: Tensor, global_cond: Tensor) -> Tensor:
        shift = self.embed(torch.cat([time_embedding(timestep), nn.functional.silu(self.see(global_cond))], dim=1))
        hidden = self.down(self.conv_in(sample))
        hidden = hidden + self.middle(nn.functional.silu(self.norm(hidden) + shift[..., None]))
        return self.conv_out(self.up(hidden))


def _denoiser(net: type[nn.Module], schedule: NoiseSchedule, *conditions: Input, shape: tuple[int, ...]) -> Denoiser:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = net()
        examples = {it.name: _example(it) for it in conditions}
    return Denoiser(module, schedule, shape, Source("families", "", ""), conditions, examples)


def _example(wanted: Input) -> Tensor:
    shape = [6, *(TOKENS if isinstance(size, str) else size for size in wanted.shape)]
    if wanted.limit is None:
        return torch.randn(shape)
    return (torch.arange(math.prod(shape)).reshape(shape) % 5 != 4).long()  # the last token of five is masked


IMAGE = (2, 8, 8)


def text() -> Denoiser:
    """A prompt of an open number of tokens, and its mask."""
    prompt = Input("encoder_hidden_states", "float32", ("tokens", TEXT))
    return _denoiser(TextNet, NoiseSchedule(), prompt, Input("mask", "int64", ("tokens",), 2), shape=IMAGE)


def low_res() -> Denoiser:
    """A low-resolution image."""
    return _denoiser(LowResNet, NoiseSchedule(), Input("low_res", "float32", (2, 4, 4)), shape=IMAGE)


def sequence() -> Denoiser:
    """One dimension, a global vector."""
    return _denoiser(SequenceNet, NoiseSchedule(), Input("global_cond", "float32", (7,)), shape=(3, 16))


def velocity() -> Denoiser:
    """Predicts v."""
    return _denoiser(Net, NoiseSchedule(prediction_type="v_prediction"), shape=IMAGE)


def clean() -> Denoiser:
    """Predicts x_0."""
    return _denoiser(Net, NoiseSchedule(prediction_type="sample"), shape=IMAGE)


def flow() -> Denoiser:
    """Flow matching: continuous time."""
    return _denoiser(Net, NoiseSchedule(prediction_type="flow", clip_sample=False), shape=IMAGE)
