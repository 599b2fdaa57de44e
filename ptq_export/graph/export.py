"""From a torch module to an ONNX graph: the dynamo exporter, our two operators as QuantizeLinear / DequantizeLinear.

Opset 18 for ONNX Runtime: GroupNormalization of opset 21 is expanded there into some 25 small ops and runs 1.7-6 times
slower than the Reshape + InstanceNormalization that opset 18 gives.
"""

import contextlib
import io
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from torch import nn
from torch._dynamo.exc import UserError, UserErrorType
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from ptq_export.errors import InputError
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

    Raises:
        InputError: it cannot be traced with an open batch; the line of its code is named.
    """
    # The exporter specialises a batch of 1 away, so it is shown two samples.
    steps = torch.arange(EXAMPLE_BATCH)
    example = (torch.zeros(EXAMPLE_BATCH, *sample_shape), steps, *([steps.clone()] if labelled else []))
    with _quiet():
        try:
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
        except torch.onnx.OnnxExporterError as error:
            raise _refusal(error) from error
    assert program is not None
    model: ir.Model = program.model
    if any(isinstance(value.shape[0], int) for value in model.graph.inputs if value.shape):
        cause = f"the network makes a constant of the batch: its graph would take {EXAMPLE_BATCH} samples and no others"
        raise InputError(cause, "take the batch from sample.shape[0], not from len(sample) or int(...)")
    return model


def _refusal(error: BaseException) -> InputError:
    chain = list(_chain(error))
    line = next((found for found in map(_line_of, chain) if found), "")
    if any(_decides_by_values(part) for part in chain):
        cause = f"the network decides by the values of its inputs which way it goes{line}: such a net has no graph"
        return InputError(cause, "torch.where(condition, a, b) computes both and chooses for each sample")
    told = next((found for part in reversed(chain) if (found := _first_line(part))), type(error).__name__)
    remedy = "torch.export.export(net, (sample, timestep), strict=False) says more"
    return InputError(f"the network cannot be exported{line}: {told}", remedy)


def _decides_by_values(error: BaseException) -> bool:
    control_flow = isinstance(error, UserError) and error.error_type == UserErrorType.DYNAMIC_CONTROL_FLOW
    return control_flow or isinstance(error, GuardOnDataDependentSymNode) or "data-dependent" in str(error)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "")


def _line_of(error: BaseException) -> str:
    """The last line of the network's own code that the trace went through, as ` (net.py:61: return y)`."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not _is_library(frame.filename)]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno}: {frames[-1].line})" if frames else ""


def _is_library(filename: str) -> bool:
    return filename.startswith(("<", str(Path(torch.__file__).parent), str(Path(__file__).parents[1])))


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter logs and warns about torchvision and its own internals; none of it concerns the user."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)  # torch's trace has loggers of its own, and prints whole graphs on a failure
    try:
        # A failed trace prints the whole graph on stderr.
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
            contextlib.redirect_stderr(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
