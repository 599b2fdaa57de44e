"""What a step per token costs a linear at run time: the layer alone in an engine, in int8 both ways and in float.

    python -m ptq_export.benchmarks.token_steps [--target ort-int8] [--threads 1]

A step per token adds the largest magnitude of each token, a division before the quantiser, and a product behind the
layer.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from ptq_export.benchmarks.timing.clock import Protocol
from ptq_export.benchmarks.timing.latency import measure_steps
from ptq_export.calibrators.grids import token_grid
from ptq_export.calibrators.rounding import SoftLayer
from ptq_export.console import Output, Screen
from ptq_export.engines.base import Engine
from ptq_export.engines.registry import find_runtime
from ptq_export.errors import PtqExportError
from ptq_export.graph.export import EXAMPLE_BATCH, export_module
from ptq_export.interface import INPUTS, Input, inputs_to_json
from ptq_export.nn.layers import Grid
from ptq_export.nn.scheme import Scheme
from ptq_export.pairs import Pairs
from ptq_export.targets import find_target

__all__ = ["main"]

SHAPES = ((256, 96, 96), (256, 384, 96), (1024, 320, 320), (1024, 320, 2560), (1024, 1280, 320), (256, 1280, 1280))
PROTOCOL = Protocol(warmup=5, min_rounds=50, min_seconds=1.0)
HEADERS = ["rows", "inputs", "outputs", "float ms", "one step ms", "per token ms", "per token / one step"]


class _Alone(nn.Module):
    """A linear over the rows of a sample `[N, rows, C]`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        result: Tensor = self.layer(sample) + 0 * timestep[:, None, None]
        return result


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="token_steps", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--target", default="ort-int8", help="default: ort-int8")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="default: 1")
    asked, screen = parser.parse_args(arguments), Screen(Output())
    try:
        rows = [_row(asked.target, asked.threads, *shape) for shape in SHAPES]
    except PtqExportError as error:
        screen.error(error)
        return error.exit_code
    screen.result({}, {f"One linear in {asked.target}": [HEADERS, *rows]})
    return 0


@torch.no_grad()
def _row(target: str, threads: int, count: int, inputs: int, outputs: int) -> list[str]:
    torch.manual_seed(0)
    layer, scheme = nn.Linear(inputs, outputs).requires_grad_(False), find_target(target).quantised()
    codes = scheme.activations
    one = Grid(torch.tensor(4 / codes.reach), torch.tensor(codes.middle, dtype=codes.dtype))
    layers = {
        "float": layer,
        "one": _int8(layer, one, scheme),
        "token": _int8(layer, token_grid(codes, torch.device("cpu")), replace(scheme, linear_input="token")),
    }
    pairs = Pairs(torch.randn(1, count, inputs), torch.tensor([1]))
    with TemporaryDirectory() as folder:
        engines = {name: _engine(it, pairs, target, threads, Path(folder, name)) for name, it in layers.items()}
        (step,) = measure_steps(engines, [pairs], PROTOCOL, [1])
    ms = {name: timing.median_ms for name, timing in step.candidates.items()}
    return [*map(str, (count, inputs, outputs)), *(f"{it:.3f}" for it in ms.values()), f"{ms['token'] / ms['one']:.2f}"]


def _int8(layer: nn.Linear, grid: Grid, scheme: Scheme) -> nn.Module:
    return SoftLayer(layer, grid, None, scheme, learn=False).harden()


def _engine(layer: nn.Module, pairs: Pairs, target: str, threads: int, folder: Path) -> Engine:
    named = (Input("sample", "float32", tuple(pairs.sample.shape[1:])), Input("timestep", "int64"))
    example = Pairs(pairs.sample.expand(EXAMPLE_BATCH, -1, -1), pairs.timestep.expand(EXAMPLE_BATCH))
    graph = export_module(_Alone(layer).eval(), example, named)
    graph.metadata_props[INPUTS] = json.dumps(inputs_to_json(named))
    runtime = find_runtime(find_target(target).engine)
    folder.mkdir()
    runtime.write(graph, folder / "linear.onnx")
    return runtime.build(folder / "linear.onnx", folder, runtime.options_from({"threads": threads}))


if __name__ == "__main__":
    raise SystemExit(main())
