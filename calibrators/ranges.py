"""Range metrics: which interval of an activation its codes should cover.

Each metric scores candidate intervals on a histogram; the best of a sweep over the upper end, then over the lower
end, is taken. PTQ4DM (arXiv:2211.15736, section 3.4) chooses the L_p distance with p = 2.4 over L1, cosine and KL.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from ptq_export.calibrators.histogram import ChannelHistogram, ChannelRange
from ptq_export.lookup import lookup
from ptq_export.nn.code_type import UINT8, CodeType

__all__ = ["METRICS", "clip_range", "find_metric"]

SHRINKS = torch.linspace(1.0, 0.3, 25)
Loss = Callable[[Tensor, Tensor, Tensor, CodeType], Tensor]
"""Of values, the same quantised, how many there are of each, and the codes."""


def _quantised(centres: Tensor, low: Tensor, high: Tensor, codes: CodeType) -> Tensor:
    scale = ((high - low) / codes.steps).clamp_min(1e-12)
    zero_point = torch.round(-low / scale)
    return ((torch.round(centres / scale) + zero_point).clamp(0, codes.steps) - zero_point) * scale


def _lp(p: float) -> Loss:
    def loss(values: Tensor, quantised: Tensor, counts: Tensor, _: CodeType) -> Tensor:
        return ((quantised - values).abs().pow(p) * counts).sum(1)

    return loss


def _cosine(values: Tensor, quantised: Tensor, counts: Tensor, _: CodeType) -> Tensor:
    dot = (values * quantised * counts).sum(1)
    norms = (values.square() * counts).sum(1) * (quantised.square() * counts).sum(1)
    return 1 - dot / norms.sqrt().clamp_min(1e-20)


def _kl(values: Tensor, quantised: Tensor, counts: Tensor, codes: CodeType) -> Tensor:
    """KL(P || Q): P the histogram, Q its mass spread evenly over the occupied bins that share a code."""
    total = counts.sum(1, keepdim=True)
    p = counts / total
    starts = torch.ones_like(quantised, dtype=torch.bool)
    starts[:, 1:] = (quantised[:, 1:] - quantised[:, :-1]).abs() > 1e-9
    code = starts.cumsum(1) - 1
    mass = torch.zeros_like(p).scatter_add_(1, code, p)
    occupied = torch.zeros_like(p).scatter_add_(1, code, (p > 0).float())
    outside = (values - quantised).abs() > (
        quantised.amax(1, keepdim=True) - quantised.amin(1, keepdim=True)
    ) / codes.steps
    q = (mass / occupied.clamp_min(1)).gather(1, code)
    clipped = torch.where(outside, torch.full_like(q, 1e-9), q)
    return (p * (p.clamp_min(1e-12) / clipped.clamp_min(1e-12)).log()).sum(1)


METRICS: dict[str, Loss | None] = {
    "min-max": None,
    "percentile": None,
    "l1": _lp(1),
    "l2": _lp(2),
    "l2.4": _lp(2.4),
    "cosine": _cosine,
    "kl": _kl,
}


def find_metric(name: str) -> Loss | None:
    """The loss of the metric called `name`; None for the two that need no search.

    Raises:
        InputError: no such metric; the message lists the known ones and offers the nearest.
    """
    return lookup("range metric", name, METRICS)


def clip_range(histogram: ChannelHistogram, metric: str, codes: CodeType = UINT8) -> ChannelRange:
    """The interval `[C]` of each channel of `histogram` that is best by `metric`.

    That of signed codes lies around their zero point 0: -128 to 127 steps of int8.
    """
    limits = histogram.limits
    loss = find_metric(metric)
    if loss is None:
        clip = _percentile(histogram, 0.9999) if metric == "percentile" else limits
        return _around_zero(clip, codes) if codes.signed else clip
    if codes.signed:
        whole = _around_zero(limits, codes)
        return ChannelRange(*_best(histogram, loss, codes, [(whole.low * by, whole.high * by) for by in SHRINKS]))
    low, high = limits.low, limits.high
    high = _best(histogram, loss, codes, [(low, high * shrink) for shrink in SHRINKS])[1]
    low = _best(histogram, loss, codes, [(low * shrink, high) for shrink in SHRINKS])[0]
    return ChannelRange(low, high)


def _around_zero(clip: ChannelRange, codes: CodeType) -> ChannelRange:
    step = torch.maximum(clip.low / codes.low, clip.high / codes.high)
    return ChannelRange(codes.low * step, codes.high * step)


def _best(
    histogram: ChannelHistogram, loss: Loss, codes: CodeType, candidates: list[tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    values = histogram.centres()
    best = torch.full_like(histogram.limits.low, torch.inf)
    best_low, best_high = candidates[0]
    for low, high in candidates:
        error = loss(values, _quantised(values, low[:, None], high[:, None], codes), histogram.counts, codes)
        better = error < best
        best = torch.where(better, error, best)
        best_low, best_high = torch.where(better, low, best_low), torch.where(better, high, best_high)
    return best_low, best_high


def _percentile(histogram: ChannelHistogram, kept: float) -> ChannelRange:
    share = histogram.counts.cumsum(1) / histogram.counts.sum(1, keepdim=True).clamp_min(1)
    values = histogram.centres()
    first = (share < 1 - kept).sum(1, keepdim=True).clamp(max=values.shape[1] - 1)
    last = (share < kept).sum(1, keepdim=True).clamp(max=values.shape[1] - 1)
    return ChannelRange(values.gather(1, first)[:, 0].clamp(max=0), values.gather(1, last)[:, 0].clamp(min=0))
