"""Classifier-free guidance (arXiv:2207.12598) around a denoiser or an engine: two rows per sample in one batch."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ptq_export.conditions import Conditions
from ptq_export.errors import InputError

__all__ = ["Guidance", "Guided", "guided", "under"]


def guided(output: Tensor, scale: float, channels: int) -> Tensor:
    """eps_u + scale (eps_c - eps_u) `[N, ...]` of `output` `[2 N, ...]`, the unconditional rows first; what follows the
    first `channels`, a learned variance, is eps_c's."""
    without, given = output.chunk(2)
    eps = without[:, :channels] + scale * (given[:, :channels] - without[:, :channels])
    return torch.cat([eps, given[:, channels:]], dim=1)


@dataclass(frozen=True)
class Guidance:
    """How far samples are moved towards their conditions, and from what: one row `[1, ...]` of every condition that is
    taken away."""

    scale: float
    unconditional: Conditions

    def without_every_second(self, conditions: Conditions) -> dict[str, Tensor]:
        """`conditions` `[N, ...]`, those of every second row taken away: a guided sampler asks both ways as often."""
        found = dict(conditions)
        for name, row in self.unconditional.items():
            found[name] = conditions[name].clone()
            found[name][1::2] = row
        return found


class Guided:
    """eps = eps_u + scale (eps_c - eps_u), of a model that is called once with both; a learned variance is eps_c's."""

    def __init__(self, model: Callable[..., Tensor], scale: float, unconditional: Conditions) -> None:
        """`unconditional` holds one row `[1, ...]` of every condition that is taken away: an empty prompt, a class of
        its own. Conditions that it does not name are kept on both sides."""
        if any(len(value) != 1 for value in unconditional.values()) or not unconditional:
            raise InputError("guidance wants one row of every condition that it takes away", "give tensors [1, ...]")
        self.model, self.scale, self.unconditional = model, scale, unconditional

    def __call__(self, sample: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        """The guided prediction `[N, ...]`.

        Raises:
            InputError: a condition to take away was not given, or has other sizes than its unconditional row.
        """
        if missing := sorted({*self.unconditional} - {*conditions}):
            raise InputError(
                f"{', '.join(missing)} is missing: there is nothing to guide towards", "give it by its name"
            )
        both = {name: torch.cat([self._away(name, value), value]) for name, value in conditions.items()}
        out = self.model(torch.cat([sample, sample]), torch.cat([timestep, timestep]), **both)
        return guided(out, self.scale, sample.shape[1])

    def _away(self, name: str, value: Tensor) -> Tensor:
        row = self.unconditional.get(name)
        if row is None:
            return value
        if row.shape[1:] != value.shape[1:]:
            raise InputError(
                f"{name} is {list(value.shape)}, its unconditional row {list(row.shape)}", "pad one of them"
            )
        return row.to(value).expand_as(value)


def under(guidance: Guidance | None, model: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """What a sampler calls in place of `model`: itself where nothing guides it."""
    return model if guidance is None else Guided(model, guidance.scale, guidance.unconditional)
