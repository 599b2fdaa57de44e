"""Hand-made denoisers for the calibration tests: from a scaled identity to a U-Net of two levels."""

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from ptq_export.calibrators.quantise import QuantisationState, UnitStore
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source, UNetEps
from ptq_export.pairs import Pairs
from ptq_export.sampling import initial_noise


def denoiser_of(module: nn.Module, shape: tuple[int, int, int], times: int = 1000) -> Denoiser:
    """A denoiser of the toys: no file behind it."""
    module.eval().requires_grad_(False)
    return Denoiser(module, NoiseSchedule(num_train_timesteps=times), shape, Source("toy", "toy", "0" * 64))


class Recorder(nn.Module):
    """eps = x / 2, element by element (any batch gives the same bits), remembering every call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor]] = []

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        self.calls.append((sample.clone(), timestep.clone()))
        return 0.5 * sample


class PlainNet(nn.Module):
    """stem, [conv, SiLU, conv], a linear layer of t added in between, 1x1, head: nothing from diffusers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.stem, self.shift = nn.Conv2d(1, 6, 3, padding=1), nn.Linear(1, 6)
        self.body = nn.Sequential(nn.Conv2d(6, 6, 3, padding=1), nn.SiLU(), nn.Conv2d(6, 5, 1))
        self.mix, self.head = nn.Linear(5, 5), nn.Conv2d(5, 1, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        x = self.stem(sample) + self.shift(timestep.float()[:, None] / 1000)[:, :, None, None]
        x = self.body(nn.functional.silu(x))
        return self.head(self.mix(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def plain_denoiser() -> Denoiser:
    """`PlainNet` on samples `[N, 1, 5, 5]`."""
    return denoiser_of(PlainNet(), (1, 5, 5))


def unet_denoiser() -> Denoiser:
    """A `UNet2DModel` on samples `[N, 1, 8, 8]`, attention at the lower level."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
    )
    return denoiser_of(UNetEps(unet), (1, 8, 8))


def random_pairs(denoiser: Denoiser, count: int, seed: int = 0) -> Pairs:
    """Noise at times spread over the schedule."""
    timestep = torch.linspace(0, denoiser.schedule.num_train_timesteps - 1, count).long()
    return Pairs(initial_noise((count, *denoiser.sample_shape), seed), timestep)


def memory_store(kept: dict[int, QuantisationState]) -> UnitStore:
    """Finished units in `kept`."""
    return UnitStore(kept.get, kept.__setitem__)


def sqnr_db(wanted: Tensor, got: Tensor) -> float:
    """10 log10 of the power of `wanted` over that of the error."""
    return float(10 * torch.log10(wanted.square().sum() / (got - wanted).square().sum()))
