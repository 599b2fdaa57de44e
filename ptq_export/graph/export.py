"""From a torch module to an ONNX graph: the dynamo exporter, our two operators as QuantizeLinear / DequantizeLinear.

Opset 18 for ONNX Runtime: GroupNormalization of opset 21 is expanded there into some 25 small ops and runs 1.7-6 times
slower than the Reshape + InstanceNormalization that opset 18 gives.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from torch import nn

from ptq_export.interface import INPUTS, OUTPUT
from ptq_export.nn.ops import NAMESPACE

__all__ = ["OPSET", "export_module"]

OPSET = 18
EXAMPLE_BATCH = 2


def _quantize_linear(x: Any, scale: Any, zero_point: Any, axis: int) -> Any:
    return op.QuantizeLinear(x, scale, zero_point, axis=axis)


def _dequantize_linear(codes: Any, scale: Any, zero_point: Any, axis: int) -> Any:
    return op.DequantizeLinear(codes, scale, zero_point, axis=axis)


def _translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    operators = getattr(torch.ops, NAMESPACE)
    return {
        operators.quantize_linear.default: _quantize_linear,
        operators.dequantize_linear.default: _dequantize_linear,
    }


def export_module(module: nn.Module, sample_shape: tuple[int, int, int], labelled: bool = False) -> ir.Model:
    """The graph of `module(sample, timestep) -> eps` with a dynamic batch.

    Inputs `sample` `[batch, C, H, W]` float32, `timestep` `[batch]` int64 and, if `labelled`, `label` `[batch]` int64;
    output `eps`.
    """
    # The exporter specialises a batch of 1 away, so it is shown two samples.
    steps = torch.arange(EXAMPLE_BATCH)
    example = (torch.zeros(EXAMPLE_BATCH, *sample_shape), steps, *([steps.clone()] if labelled else []))
    with _quiet():
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamo=True,
            opset_version=OPSET,
            input_names=INPUTS[: len(example)],
            output_names=[OUTPUT],
            dynamic_shapes=tuple({0: "batch"} for _ in example),
            custom_translation_table=_translations(),
            verbose=False,
        )
    assert program is not None
    model: ir.Model = program.model
    return model


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter logs and warns about torchvision and its own internals; none of it concerns the user."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
