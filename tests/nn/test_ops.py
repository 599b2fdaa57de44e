"""The two operators follow ONNX to the code, and the fake-quantiser has the straight-through and LSQ gradients."""

import numpy as np
import pytest
import torch
from onnx.reference.ops.op_dequantize_linear import DequantizeLinear_21
from onnx.reference.ops.op_quantize_linear import QuantizeLinear_21
from torch import Tensor

from ptq_export.nn.ops import dequantize_linear, fake_quantize, quantize_linear, round_ste

TIES = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
TYPES = pytest.mark.parametrize("dtype", [torch.uint8, torch.int8], ids=str)


def onnx_quantize(x: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> np.ndarray:
    return QuantizeLinear_21.eval(x.numpy(), scale.numpy(), zero_point.numpy(), axis=axis)


def onnx_dequantize(codes: Tensor, scale: Tensor, zero_point: Tensor, axis: int) -> np.ndarray:
    return DequantizeLinear_21.eval(codes.numpy(), scale.numpy(), zero_point.numpy(), axis=axis)


@TYPES
def test_ties_round_to_even(dtype: torch.dtype) -> None:
    scale, zero_point = torch.tensor(1.0), torch.tensor(10, dtype=dtype)
    codes = quantize_linear(TIES, scale, zero_point, 0)
    assert codes.dtype == dtype
    assert codes.tolist() == [8, 8, 10, 10, 12, 12, 14]
    assert np.array_equal(codes, onnx_quantize(TIES, scale, zero_point, 0))


@TYPES
def test_codes_saturate_at_the_ends_of_their_type(dtype: torch.dtype) -> None:
    x, scale, zero_point = torch.tensor([-1e6, 1e6]), torch.tensor(0.1), torch.tensor(3, dtype=dtype)
    codes = quantize_linear(x, scale, zero_point, 0)
    assert codes.tolist() == [torch.iinfo(dtype).min, torch.iinfo(dtype).max]
    assert np.array_equal(codes, onnx_quantize(x, scale, zero_point, 0))


@TYPES
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_each_slice_along_the_axis_has_its_own_grid(dtype: torch.dtype, axis: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x = 4 * torch.randn(3, 3, 3, generator=generator)
    scale, zero_point = torch.tensor([0.02, 0.1, 0.7]), torch.tensor([0, 7, 100], dtype=dtype)
    codes = quantize_linear(x, scale, zero_point, axis)
    assert np.array_equal(codes, onnx_quantize(x, scale, zero_point, axis))
    values = dequantize_linear(codes, scale, zero_point, axis)
    assert np.array_equal(values, onnx_dequantize(codes, scale, zero_point, axis))


def test_int32_codes_give_back_a_bias() -> None:
    codes, scale = torch.tensor([100_000, -7], dtype=torch.int32), torch.tensor([1e-4, 0.5])
    assert dequantize_linear(codes, scale, torch.zeros_like(codes), 0).tolist() == pytest.approx([10.0, -3.5])


def test_the_operators_leave_their_inputs_alone() -> None:
    x, zero_point = TIES.clone(), torch.tensor(0, dtype=torch.uint8)
    quantize_linear(x, torch.tensor(0.3), zero_point, 0)
    assert torch.equal(x, TIES)
    torch.library.opcheck(quantize_linear, (x, torch.tensor(0.3), zero_point, 0))


def test_round_ste_rounds_and_passes_the_gradient_through() -> None:
    x = TIES.clone().requires_grad_()
    y = round_ste(x)
    y.backward(torch.arange(7.0))
    assert torch.equal(y, TIES.round()) and torch.equal(x.grad, torch.arange(7.0))


def test_fake_quantize_is_quantize_then_dequantize() -> None:
    x = torch.linspace(-3, 9, 101)
    scale, zero_point = torch.tensor(0.03), torch.tensor(60, dtype=torch.uint8)
    codes = quantize_linear(x, scale, zero_point, 0)
    assert torch.equal(fake_quantize(x, scale, zero_point), dequantize_linear(codes, scale, zero_point, 0))


def test_fake_quantize_has_the_gradients_of_lsq() -> None:
    """d/dx is 1 inside the range and 0 outside; d/dscale is round(x/s) - x/s inside, the end minus z outside."""
    x = torch.tensor([-9.0, -0.26, 0.3, 900.0], requires_grad=True)
    scale = torch.tensor([0.5, 0.5, 0.5, 0.5], requires_grad=True)
    fake_quantize(x, scale, torch.tensor(2, dtype=torch.uint8)).sum().backward()
    assert x.grad.tolist() == [0, 1, 1, 0]
    assert scale.grad.tolist() == pytest.approx([0 - 2, -1 + 0.52, 1 - 0.6, 255 - 2], abs=1e-6)
