"""Calls of a denoiser as a value: samples, their time-steps and their conditions, row by row."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ptq_export.conditions import Conditions, move, rows
from ptq_export.interface import SAMPLE, TIMESTEP

__all__ = ["Pairs"]


@dataclass(frozen=True)
class Pairs:
    """Inputs of a denoiser: `sample` `[N, *sample_shape]` float32, `timestep` `[N]` (int64, original training steps;
    float32 of a flow), and `conditions` `[N, ...]` by name."""

    sample: Tensor
    timestep: Tensor
    conditions: Conditions = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.sample)

    def rows(self, index: Tensor | slice) -> "Pairs":
        """Some of the pairs."""
        return Pairs(self.sample[index], self.timestep[index], rows(self.conditions, index))

    def on(self, device: torch.device) -> "Pairs":
        """The same pairs on `device`."""
        return Pairs(self.sample.to(device), self.timestep.to(device), move(self.conditions, device))

    def batches(self, size: int) -> Iterator["Pairs"]:
        """`size` pairs at a time."""
        for first in range(0, len(self), size):
            yield self.rows(slice(first, first + size))

    def through(self, model: Callable[..., Tensor]) -> Tensor:
        """What a denoiser, its module or an engine makes of them."""
        return model(self.sample, self.timestep, **self.conditions)

    def in_batches_of(self, size: int, model: Callable[..., Tensor]) -> Tensor:
        """What a model that takes `size` pairs at a time makes of them: the last batch is filled up with the first."""
        full = torch.arange(-(-len(self) // size) * size)
        padded = self.rows(torch.where(full < len(self), full, 0))
        return torch.cat([batch.through(model) for batch in padded.batches(size)])[: len(self)]

    @property
    def feeds(self) -> dict[str, Tensor]:
        """All inputs by name."""
        return {SAMPLE: self.sample, TIMESTEP: self.timestep, **self.conditions}

    @classmethod
    def of_feeds(cls, feeds: Mapping[str, Tensor]) -> "Pairs":
        """The pairs with these inputs."""
        rest = {name: value for name, value in feeds.items() if name not in (SAMPLE, TIMESTEP)}
        return cls(feeds[SAMPLE], feeds[TIMESTEP], rest)
