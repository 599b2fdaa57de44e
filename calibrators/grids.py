"""From histograms to grids: activation scales and zero points, and the scales of the weights."""

import torch
from torch import Tensor

from ptq_export.calibrators.histogram import ChannelHistogram
from ptq_export.calibrators.ranges import clip_range
from ptq_export.nn.code_type import INT8, UINT8, CodeType
from ptq_export.nn.layers import Grid

__all__ = [
    "bias_step",
    "fold_input_scale",
    "input_grid",
    "output_grid",
    "pairing_order",
    "symmetric_grid",
    "token_grid",
    "weight_scale",
]


def output_grid(histogram: ChannelHistogram, metric: str, codes: CodeType = UINT8) -> Grid:
    """Scale and zero point for each row of the histogram."""
    clip = clip_range(histogram, metric, codes)
    scale = ((clip.high - clip.low) / codes.steps).clamp_min(1e-8)
    zero_point = torch.round(-clip.low / scale).clamp(codes.low, codes.high).to(codes.dtype)
    return _squeezed(Grid(scale, zero_point))


def input_grid(histogram: ChannelHistogram, metric: str, weight: Tensor, codes: CodeType = UINT8) -> Grid:
    """Scales per channel (or tensor) around one zero point.

    An integer convolution pads with one code, so the channels share the zero point z and channel i needs
    s_i = max(-low_i / z, high_i / (255 - z)) (of uint8). The z taken minimises sum_i ||w_i||^2 s_i^2, the variance that
    uniform rounding noise of these steps has behind the weights `[O, I, ...]`.
    """
    clip = clip_range(histogram, metric, codes)
    energy = weight.transpose(0, 1).flatten(1).square().sum(1)
    energy = energy if len(energy) == len(clip.low) else energy.sum(0, keepdim=True)
    zero_points = torch.arange(codes.steps + 1, dtype=torch.float32, device=weight.device)[:, None]
    below = torch.where(clip.low < 0, -clip.low / zero_points, torch.zeros_like(clip.low))
    above = torch.where(clip.high > 0, clip.high / (codes.steps - zero_points), torch.zeros_like(clip.high))
    scales = torch.maximum(below, above).clamp_min(1e-8)
    # A zero point that leaves a side without codes asks for an infinite step, even of a channel without weights.
    best = (scales.square() * energy).sum(1).nan_to_num(nan=torch.inf).argmin()
    return _squeezed(Grid(scales[best], best.to(codes.dtype)))


def symmetric_grid(histogram: ChannelHistogram, metric: str, codes: CodeType = INT8) -> Grid:
    """One scale with zero point 0 for an input whose histogram pools all channels."""
    clip = clip_range(histogram, metric, codes)
    scale = (clip.high / codes.high).clamp_min(1e-8)
    return _squeezed(Grid(scale, torch.zeros_like(scale, dtype=codes.dtype)))


def token_grid(codes: CodeType, device: torch.device) -> Grid:
    """The grid of tokens that were divided by their largest magnitude: -1 to 1."""
    middle = torch.tensor(codes.middle, dtype=codes.dtype, device=device)
    return Grid(torch.tensor(1 / codes.reach, device=device), middle)


def _squeezed(grid: Grid) -> Grid:
    if grid.scale.numel() > 1:
        return grid
    return Grid(grid.scale.reshape(()), grid.zero_point.reshape(()))


def fold_input_scale(weight: Tensor, grid: Grid) -> Tensor:
    """w * s / u: the weights that act on input codes of unit u = max(s)."""
    relative = (grid.scale / grid.scale.max()).expand(weight.shape[1])
    return weight * relative.reshape(1, -1, *[1] * (weight.ndim - 2))


def pairing_order(weight: Tensor) -> Tensor:
    """Rows `[O, K]` in the order in which the integer kernels read them: [kh, kw, cin]."""
    return (weight.permute(0, 2, 3, 1) if weight.ndim == 4 else weight).flatten(1)


def weight_scale(weight: Tensor, pair_limit: int | None, even_pairs: bool = True, codes: CodeType = INT8) -> Tensor:
    """Step `[O]` of symmetric codes (-127 to 127 of int8) whose adjacent same-sign pairs keep |a| + |b| <= pair_limit,
    if any: the pairs that begin at even places, or all.

    Two steps of margin leave rounding free to go either way. Pairs of opposite sign cannot saturate: activation codes
    are not negative.
    """
    rows = pairing_order(weight)
    largest = (rows.abs().amax(1) / codes.reach).clamp_min(1e-12)
    if pair_limit is None:
        return largest
    stride = 2 if even_pairs else 1
    rows = torch.nn.functional.pad(rows, (0, 1))
    first, second = rows[:, :-1:stride], rows[:, 1::stride]
    pairs = torch.where(first.sign() == second.sign(), (first + second).abs(), torch.zeros_like(first))
    return torch.maximum(largest, pairs.amax(1) / (pair_limit - 2))


def bias_step(bias: Tensor, unit: Tensor, output: Grid | None) -> Tensor:
    """Smallest weight step `[O]` at which the int32 accumulator holds the bias, in steps of weight times input unit.

    Only channels with (almost) no weights need it. The bias takes half of the 32 bits' range: the rest is for the sum.
    """
    shifted = bias if output is None else bias + output.zero_point * output.scale
    return shifted.abs() / (unit * 2**30)
