"""A denoiser that computes no eps twice: measurements and calibrations of one model share their trajectories."""

import hashlib
from dataclasses import replace

import torch
from torch import Tensor, nn

from ptq_export.denoiser import Denoiser

__all__ = ["remembering"]


def remembering(denoiser: Denoiser) -> Denoiser:
    """The same denoiser with a memory that grows by every new (sample, timestep, label)."""
    return replace(denoiser, module=_Remembering(denoiser.module))


class _Remembering(nn.Module):
    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.known: dict[bytes, Tensor] = {}

    def forward(self, *inputs: Tensor) -> Tensor:
        keys = [hashlib.blake2b(b"".join(map(_bytes, row))).digest() for row in zip(*inputs, strict=True)]
        fresh = [row for row, key in enumerate(keys) if key not in self.known]
        if fresh:
            made = self.module(*(values[fresh] for values in inputs))
            self.known.update(zip((keys[row] for row in fresh), made, strict=True))
        return torch.stack([self.known[key] for key in keys])


def _bytes(value: Tensor) -> bytes:
    return value.numpy().tobytes()
