"""Streaming histograms of a tensor's channels: memory depends on channels and bins, never on the number of samples."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["ChannelHistogram", "ChannelRange", "channels_first"]

BINS = 1024


def channels_first(x: Tensor) -> Tensor:
    """`[N, C, H, W]` or `[..., C]` as rows `[C, values]`."""
    return x.transpose(0, 1).flatten(1) if x.ndim == 4 else x.flatten(0, -2).t()


@dataclass
class ChannelRange:
    """Smallest and largest value of each channel `[C]`; zero is always inside."""

    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, x: Tensor) -> "ChannelRange":
        """The range of one activation."""
        rows = channels_first(x)
        return cls(rows.amin(1).clamp(max=0), rows.amax(1).clamp(min=0))

    def update(self, x: Tensor) -> None:
        """Widen by another activation."""
        other = ChannelRange.of(x)
        self.low, self.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)

    def per_tensor(self) -> "ChannelRange":
        """One range for all channels: `[1]`."""
        return ChannelRange(self.low.amin(0, keepdim=True), self.high.amax(0, keepdim=True))


class ChannelHistogram:
    """Counts `[C, BINS]` between fixed limits `[C]` (found in a pass before); limits `[1]` pool all channels."""

    def __init__(self, limits: ChannelRange) -> None:
        self.limits = limits
        self.width = ((limits.high - limits.low) / BINS).clamp_min(1e-12)
        self.counts = torch.zeros(len(limits.low), BINS, device=limits.low.device)

    def update(self, x: Tensor) -> None:
        """Count another activation."""
        rows = channels_first(x)
        if len(self.limits.low) == 1:
            rows = rows.reshape(1, -1)
        index = ((rows - self.limits.low[:, None]) / self.width[:, None]).long().clamp_(0, BINS - 1)
        index += torch.arange(len(rows), device=rows.device)[:, None] * BINS
        self.counts += torch.bincount(index.flatten(), minlength=self.counts.numel()).view_as(self.counts)

    def centres(self) -> Tensor:
        """The value in the middle of each bin `[C, BINS]`."""
        return self.limits.low[:, None] + (torch.arange(BINS, device=self.width.device) + 0.5) * self.width[:, None]
