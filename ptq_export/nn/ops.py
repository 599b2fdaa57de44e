"""QuantizeLinear and DequantizeLinear as torch operators: the simulation computes them, the exporter translates them.

ONNX semantics: q = clamp(round_half_even(x / scale) + zero_point), x = (q - zero_point) * scale; the type of
`zero_point` is the type of the codes. https://onnx.ai/onnx/operators/onnx__QuantizeLinear.html
"""

import torch
from torch import Tensor

from ptq_export.nn.scheme import FloatDtype

__all__ = ["NAMESPACE", "dequantize_linear", "fake_quantize", "quantize_linear", "round_ste", "round_to"]

NAMESPACE = "ptq_export"
"""Where `torch.ops` has the operators, once this module is imported."""


def _along(values: Tensor, axis: int, ndim: int) -> Tensor:
    """A scalar, or a vector `[C]` shaped to broadcast along `axis` of a tensor with `ndim` dimensions."""
    return values if values.ndim == 0 else values.reshape([-1 if d == axis % ndim else 1 for d in range(ndim)])


@torch.library.custom_op(f"{NAMESPACE}::quantize_linear", mutates_args=())
def quantize_linear(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Codes of `x`; `scale` and `zero_point` are scalars, or `[C]` along `axis`."""
    limits = torch.iinfo(zero_point.dtype)
    steps = torch.round(x / _along(scale, axis, x.ndim)) + _along(zero_point, axis, x.ndim).to(x.dtype)
    return steps.clamp_(limits.min, limits.max).to(zero_point.dtype)


@quantize_linear.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return torch.empty_like(x, dtype=zero_point.dtype)


@torch.library.custom_op(f"{NAMESPACE}::dequantize_linear", mutates_args=())
def dequantize_linear(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    """Values of `codes`, in the type of `scale`; `scale` and `zero_point` are scalars, or `[C]` along `axis`."""
    offset = _along(zero_point, axis, codes.ndim).to(scale.dtype)
    return (codes.to(scale.dtype) - offset) * _along(scale, axis, codes.ndim)


@dequantize_linear.register_fake
def _(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> Tensor:
    return torch.empty_like(codes, dtype=scale.dtype)


def round_ste(x: Tensor) -> Tensor:
    """Rounding whose gradient is the identity (straight-through estimator)."""
    return x + (torch.round(x) - x).detach()


def round_to(scale: Tensor, float_dtype: FloatDtype) -> Tensor:
    """float32 scales that `float_dtype` holds exactly, above its subnormal numbers; the gradient is the identity.

    GPUs may flush subnormal scales to zero. The floor of 2^-14 coarsens weights below 0.008 alone.
    """
    if float_dtype == "float32":
        return scale
    held = scale.detach().clamp_min(torch.finfo(torch.float16).tiny).half().float()
    return scale + (held - scale).detach()


def fake_quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """Quantise and dequantise with gradients for `x` and `scale` (LSQ, arXiv:1902.08153); arguments broadcast.

    The type of `zero_point` is the type of the codes.
    """
    limits = torch.iinfo(zero_point.dtype)
    steps = round_ste(x / scale).add(zero_point).clamp(limits.min, limits.max)
    return (steps - zero_point) * scale
