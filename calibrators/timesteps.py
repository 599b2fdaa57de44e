"""Which step of its trajectory each calibration sample is taken from.

`ndtc` is PTQ4DM's normally distributed time-step calibration (arXiv:2211.15736, section 3.3), corrected: t is drawn
from Normal(mean, std) truncated to [0, T), so that no mass piles up on t = 0. `as-released` reproduces the released
code's Normal(0.4 T, 0.4 T), clamped.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ptq_export.lookup import lookup

__all__ = ["POLICIES", "draw_step_indices", "find_policy"]

NDTC_MEAN, NDTC_STD = 0.4, 0.3


def _ndtc(count: int, generator: torch.Generator) -> Tensor:
    drawn = torch.empty(0)
    while len(drawn) < count:
        fresh = NDTC_MEAN + NDTC_STD * torch.randn(count, generator=generator)
        drawn = torch.cat([drawn, fresh[(fresh >= 0) & (fresh < 1)]])
    return drawn[:count]


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator)


def _single(count: int, generator: torch.Generator) -> Tensor:
    return torch.full((count,), NDTC_MEAN)


def _as_released(count: int, generator: torch.Generator) -> Tensor:
    return (0.4 + 0.4 * torch.randn(count, generator=generator)).clamp(0, 1 - 1e-6)


POLICIES: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "ndtc": _ndtc,
    "uniform": _uniform,
    "single": _single,
    "as-released": _as_released,
}


def find_policy(name: str) -> Callable[[int, torch.Generator], Tensor]:
    """The policy called `name`: (count, generator) -> times `[count]` as fractions of T.

    Raises:
        InputError: no such policy; the message lists the known ones and offers the nearest.
    """
    return lookup("time-step policy", name, POLICIES)


def draw_step_indices(policy: str, timesteps: Tensor, num_train_timesteps: int, count: int, seed: int) -> Tensor:
    """Loop indices `[count]`: the step of the sampler (its `timesteps`, descending) nearest to each drawn time."""
    drawn = find_policy(policy)(count, torch.Generator().manual_seed(seed))
    if policy == "as-released":
        return (drawn * len(timesteps)).long()
    times = (drawn * num_train_timesteps).floor()
    return (times[:, None] - timesteps[None, :].float()).abs().argmin(dim=1)
