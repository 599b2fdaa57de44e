"""From a torch module to an ONNX graph: the dynamo exporter, our two operators as QuantizeLinear / DequantizeLinear.

Opset 18 for ONNX Runtime: GroupNormalization of opset 21 is expanded there into some 25 small ops and runs 1.7-6 times
slower than the Reshape + InstanceNormalization that opset 18 gives.
"""

import contextlib
import inspect
import io
import logging
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset18 as op
from torch import Tensor, nn
from torch._dynamo.exc import UserError, UserErrorType
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from ptq_export.errors import InputError
from ptq_export.graph.passes.strip_metadata import StripMetadata
from ptq_export.interface import OUTPUT, Input
from ptq_export.nn.ops import NAMESPACE
from ptq_export.pairs import Pairs

__all__ = ["EXAMPLE_BATCH", "OPSET", "export_module", "export_part"]

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


def export_module(module: nn.Module, example: Pairs, inputs: Sequence[Input]) -> ir.Model:
    """The graph of `module(sample, timestep, **conditions)`, its batch and the open sizes of `inputs` dynamic.

    `example` holds `EXAMPLE_BATCH` samples: the exporter specialises a batch of 1 away. Inputs keep their names; the
    output is `eps`.

    Raises:
        InputError: it cannot be traced with an open batch or size; the line of its code is named.
    """
    named = _named(module, example)
    known = {each.name: each for each in inputs}
    with _quiet(), _sizes_in_common(module, [known[name] for name in named.values()]):
        try:
            program = torch.onnx.export(
                module.eval(),
                (example.sample, example.timestep),
                kwargs=dict(example.conditions),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(named.values()),
                output_names=[OUTPUT],
                dynamic_shapes={parameter: _open(known[name]) for parameter, name in named.items()},
                custom_translation_table=_translations(),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise _refusal(error) from error
    assert program is not None
    model: ir.Model = program.model
    for value in model.graph.inputs:
        for axis, size in _open(known[str(value.name)]).items():
            if value.shape is not None and isinstance(value.shape[axis], int):
                cause = f"the network makes a constant of the {size}: its graph would take {value.shape[axis]} only"
                raise InputError(cause, "take sizes from tensor.shape, not from len(tensor) or int(...)")
    return model


def export_part(module: nn.Module, example: Mapping[str, Tensor], outputs: Sequence[str]) -> ir.Model:
    """The graph of a module that is no denoiser: called with the tensors of `example` in their order, each with
    `EXAMPLE_BATCH` rows, it answers a tensor, or a tuple of them; the batch is dynamic.

    Raises:
        InputError: it cannot be traced with an open batch.
    """
    with _quiet():
        try:
            program = torch.onnx.export(
                module.eval(),
                tuple(example.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=list(example),
                output_names=list(outputs),
                dynamic_shapes=tuple({0: "batch"} for _ in example),
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise _refusal(error) from error
    assert program is not None
    StripMetadata()(program.model)
    model: ir.Model = program.model
    return model


@contextlib.contextmanager
def _sizes_in_common(module: nn.Module, inputs: Sequence[Input]) -> Iterator[None]:
    """Tell the trace that sizes of one name are one: without it every input has a batch of its own."""

    def tell(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        first: dict[str, Any] = {}
        for wanted, value in zip(inputs, (*args, *kwargs.values()), strict=True):
            for axis, size in _open(wanted).items():
                same = value.shape[axis] == first.setdefault(size, value.shape[axis])
                torch._check(same)  # type: ignore[no-untyped-call]

    handle = module.register_forward_pre_hook(tell, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _named(module: nn.Module, example: Pairs) -> dict[str, str]:
    """The input that each parameter of `forward` is given, in its order."""
    bound = inspect.signature(module.forward).bind(example.sample, example.timestep, **example.conditions)
    names = {id(value): name for name, value in example.feeds.items()}
    return {parameter: names[id(value)] for parameter, value in bound.arguments.items()}


def _open(wanted: Input) -> dict[int, str]:
    """The axes of an input that stay open, by the name of their size."""
    return {0: "batch"} | {axis: size for axis, size in enumerate(wanted.shape, 1) if isinstance(size, str)}


def _refusal(error: BaseException) -> InputError:
    chain = list(_chain(error))
    line = next((found for found in map(_line_of, chain) if found), "")
    if any(_decides_by_values(part) for part in chain):
        cause = f"the network decides by the values of its inputs which way it goes{line}: such a net has no graph"
        return InputError(cause, "torch.where(condition, a, b) computes both and chooses for each sample")
    told = next((found for part in reversed(chain) if (found := _first_line(part))), type(error).__name__)
    remedy = "torch.export.export(net, (sample, timestep), conditions, strict=False) says more"
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
