"""Which step of its trajectory each calibration sample is taken from.

`ndtc` is PTQ4DM's normally distributed time-step calibration (arXiv:2211.15736, section 3.3), corrected: t is drawn
from Normal(mean, std) truncated to [0, T), so that no mass piles up on t = 0. `as-released` reproduces the released
code's Normal(0.4 T, 0.4 T), clamped.

A policy's own numbers (fractions of T) can follow its name: `ndtc:0.5:0.2` is NDTC with another mean and std,
`single:0.1` another time.
"""

import inspect
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ptq_export.errors import InputError
from ptq_export.lookup import lookup

__all__ = ["POLICIES", "draw_step_indices", "find_policy"]

NDTC_MEAN, NDTC_STD = 0.4, 0.4
Draw = Callable[[int, torch.Generator], Tensor]


def _ndtc(count: int, generator: torch.Generator, mean: float = NDTC_MEAN, std: float = NDTC_STD) -> Tensor:
    drawn = torch.empty(0)
    while len(drawn) < count:
        fresh = mean + std * torch.randn(count, generator=generator)
        drawn = torch.cat([drawn, fresh[(fresh >= 0) & (fresh < 1)]])
    return drawn[:count]


def _uniform(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator)


def _single(count: int, generator: torch.Generator, time: float = NDTC_MEAN) -> Tensor:
    return torch.full((count,), time)


def _as_released(count: int, generator: torch.Generator) -> Tensor:
    return (0.4 + 0.4 * torch.randn(count, generator=generator)).clamp(0, 1 - 1e-6)


POLICIES: dict[str, Callable[..., Tensor]] = {
    "ndtc": _ndtc,
    "uniform": _uniform,
    "single": _single,
    "as-released": _as_released,
}


def find_policy(name: str) -> Draw:
    """The policy called `name`, with the numbers behind it: (count, generator) -> times `[count]` as fractions of T.

    Raises:
        InputError: no such policy (the message lists the known ones and offers the nearest), or unfit numbers.
    """
    kind, *numbers = name.split(":")
    policy = lookup("time-step policy", kind, POLICIES)
    parameters = list(inspect.signature(policy).parameters)[2:]
    fit = len(numbers) in (0, len(parameters)) and all(_is_fraction(number) for number in numbers)
    if not fit:
        spelling = ":".join([kind, *(parameter.upper() for parameter in parameters)])
        raise InputError(f"time-step policy {name!r} is not {spelling}", "give all numbers, between 0 and 1, or none")
    return partial(policy, **dict(zip(parameters, map(float, numbers), strict=False)))


def _is_fraction(text: str) -> bool:
    try:
        return 0 < float(text) < 1
    except ValueError:
        return False


def draw_step_indices(policy: str, timesteps: Tensor, num_train_timesteps: int, count: int, seed: int) -> Tensor:
    """Loop indices `[count]`: the step of the sampler (its `timesteps`, descending) nearest to each drawn time."""
    drawn = find_policy(policy)(count, torch.Generator().manual_seed(seed))
    if policy == "as-released":
        return (drawn * len(timesteps)).long()
    times = (drawn * num_train_timesteps).floor()
    return (times[:, None] - timesteps[None, :].float()).abs().argmin(dim=1)
