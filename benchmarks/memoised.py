"""A denoiser that computes no eps twice: measurements and calibrations of one model share their trajectories."""

import hashlib
from dataclasses import replace

import torch
from torch import Tensor, nn

from ptq_export.denoiser import Denoiser
from ptq_export.pairs import Pairs

__all__ = ["memoised"]


def memoised(denoiser: Denoiser) -> Denoiser:
    """The same denoiser with a memory that grows by every new (sample, timestep, conditions)."""
    return replace(denoiser, module=_Memoised(denoiser.module))


class _Memoised(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.known: dict[bytes, Tensor] = {}

    def forward(self, sample: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        """The module's output, row by row from memory where it is there."""
        pairs = Pairs(sample, timestep, conditions)
        columns = [value for _, value in sorted(pairs.feeds.items())]
        keys = [hashlib.blake2b(b"".join(map(_bytes, row))).digest() for row in zip(*columns, strict=True)]
        fresh = [row for row, key in enumerate(keys) if key not in self.known]
        if fresh:
            made = pairs.rows(torch.tensor(fresh)).through(self.module)
            self.known.update(zip((keys[row] for row in fresh), made, strict=True))
        return torch.stack([self.known[key] for key in keys])


def _bytes(value: Tensor) -> bytes:
    return value.numpy().tobytes()
