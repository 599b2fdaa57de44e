"""Samples as PNG and npy."""

import io

import numpy as np
from torch import Tensor

from ptq_export.report.images import png_bytes

__all__ = ["Range", "npy", "picture", "preview"]

Range = tuple[float, float] | None
PREVIEW_PX = 256


def picture(sample: Tensor, limits: Range) -> bytes:
    """A sample `[C, H, W]` or `[C, L]` as PNG, a pixel a number; `limits` are black and white, or its own."""
    return png_bytes(sample.double().numpy(), *_span(sample, limits))


def preview(sample: Tensor, limits: Range) -> bytes:
    """The same, made smaller where a side is longer than 256."""
    values = sample.double().numpy()
    stride = -(-max(values.shape[1:]) // PREVIEW_PX)
    return png_bytes(values[(slice(None), *[slice(None, None, stride)] * (values.ndim - 1))], *_span(sample, limits))


def npy(samples: Tensor) -> bytes:
    """`[N, C, ...]` float32 in numpy's file format."""
    buffer = io.BytesIO()
    np.save(buffer, samples.numpy(), allow_pickle=False)
    return buffer.getvalue()


def _span(sample: Tensor, limits: Range) -> tuple[float, float]:
    return limits or (sample.min().item(), sample.max().item())
