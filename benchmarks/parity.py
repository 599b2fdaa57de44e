"""Simulation = engine, proved where it can be proved: layer by layer and block by block, then as a whole.

Deep outputs are not compared bit by bit: float rounding flips a code, a flipped code flips its successors, and some
sixteen convolutions on two correct executions of one graph are as far apart as either is from full precision. So

  locally   the engine runs each layer and each block alone, on the simulation's own inputs: a layer with an output
            grid differs by at most one step on at most 1 % of the elements; a layer without one, and a block, reach
            at least 50 dB, or 15 dB above their own SQNR against full precision where that is lower: a flipped code
            costs a coarse grid more decibels, and 15 dB below the quantisation error it adds 0.14 dB to it. Where
            the engine's floats are float16, 38 dB or 6 dB: their rounding alone flips one or two codes in a hundred,
            and 2 % of flipped codes lie 6 dB below a grid's own error.
            The median image counts: one flip may cost an image 10 dB, an error of the engine costs all of them;
  globally  the engine's error against full precision is as large as the simulation's, at every time-step: the SQNR
            is equal within 0.5 dB over 64 pairs, widened by the gap's 95 % interval (Student's) where there are fewer.

Float32 has an error of its own: two orders of one network's sums are 100 to 130 dB apart. Errors below 90 dB are as
large as that and say nothing of quantisers: where both are, or where an output is nothing but such an error (a zero
convolution's), engine and simulation are equal.
"""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptq_export.benchmarks.fidelity import Curve, finite_db, sqnr_db, sqnr_gap_db
from ptq_export.benchmarks.timing.stats import student_95
from ptq_export.graph.extract import extract_module
from ptq_export.nn.calls import Call
from ptq_export.nn.layers import QuantisedLayer
from ptq_export.nn.scheme import FloatDtype
from ptq_export.pairs import Pairs

__all__ = ["GlobalParity", "LocalParity", "global_parity", "local_parity"]

BLOCK_BOUNDS_DB: Mapping[FloatDtype, tuple[float, float]] = {"float32": (50.0, 15.0), "float16": (38.0, 6.0)}
MAX_STEPS, MAX_SHARE_OFF = 1.0, 0.01
MAX_GAP_DB, FULL_PAIRS = 0.5, 64
FLOAT32_DB = 90.0
TRACED_AT_ONCE = 16  # bounds the memory that a pass of the simulation keeps
RunGraph = Callable[[bytes, Mapping[str, NDArray[Any]]], NDArray[np.float32]]


@dataclass(frozen=True)
class LocalParity:
    """One layer or block alone: by its output grid (`max_steps`, `share_off`), or by `bound_db` where it has none;
    `sqnr_db` is the median image's."""

    block: str
    kind: str
    sqnr_db: float
    bound_db: float | None
    max_steps: float
    share_off: float
    ok: bool

    def to_json(self) -> dict[str, Any]:
        """An entry of `local` in `parity.json`."""
        return asdict(self) | {"sqnr_db": finite_db(self.sqnr_db)}


@dataclass(frozen=True)
class GlobalParity:
    """SQNR against full precision of simulation and engine at one time-step."""

    timestep: float
    simulation_db: float
    engine_db: float
    bound_db: float
    ok: bool

    def to_json(self) -> dict[str, Any]:
        """An entry of `global` in `parity.json`."""
        return asdict(self)


@torch.no_grad()
def local_parity(
    reference: nn.Module,
    simulation: nn.Module,
    graph: ir.Model,
    modules: Iterable[str],
    run_graph: RunGraph,
    pairs: Pairs,
    float_dtype: FloatDtype = "float32",
) -> list[LocalParity]:
    """Run every one of `modules` (paths of quantised layers and of blocks that hold them) alone in the engine.

    `run_graph(onnx_bytes, inputs)` is the engine; `pairs` feed the simulation. `reference` is the network in full
    precision. Engines whose floats are of another type (`float_dtype`) see activations rounded to it, and so does the
    simulation.
    """
    given = {name: value.numpy() for name, value in pairs.feeds.items()}
    names = list(modules)
    results = []
    for first in range(0, len(names), TRACED_AT_ONCE):
        traced = _traced(simulation, names[first : first + TRACED_AT_ONCE], pairs)
        for name, (call, expected) in traced.items():
            if float_dtype == "float16":
                call = call.map(lambda value: value.half().float() if value.is_floating_point() else value)
                expected = call.again(simulation.get_submodule(name))
            quality_db = sqnr_db(call.again(reference.get_submodule(name)), expected)
            found = _run_alone(graph, name, call.tensors[0], given, run_graph)
            least_db, margin_db = BLOCK_BOUNDS_DB[float_dtype]
            bound_db = min(least_db, quality_db + margin_db)
            # The exporter merges a linear's reshapes with its neighbours': rows or heads, the order of values is the
            # same.
            module = simulation.get_submodule(name)
            results.append(_compare(name, module, expected, found.reshape(expected.shape), bound_db))
    return results


def global_parity(simulation: Curve, engine: Curve) -> list[GlobalParity]:
    """Compare the two curves, which met the same pairs."""
    pairs = simulation.signal.shape[1]
    rows = zip(simulation.timesteps, simulation.sqnr_db, engine.sqnr_db, sqnr_gap_db(engine, simulation), strict=True)
    results = []
    for timestep, simulation_db, engine_db, (gap_db, stderr_db) in rows:
        bound_db = MAX_GAP_DB + (0.0 if pairs >= FULL_PAIRS else student_95(pairs) * stderr_db)
        ok = abs(gap_db) <= bound_db or min(simulation_db, engine_db) >= FLOAT32_DB
        results.append(GlobalParity(timestep, finite_db(simulation_db), finite_db(engine_db), round(bound_db, 4), ok))
    return results


def _as_read(x: Tensor, value: ir.Value) -> Tensor:
    """`x` in the shape that the graph's input has, its first dimension open; as it is where others are open too."""
    sizes = [] if value.shape is None else [size for size in value.shape[1:] if isinstance(size, int)]
    return x.reshape(-1, *sizes) if value.shape is not None and len(sizes) == len(value.shape) - 1 else x


def _run_alone(
    graph: ir.Model, name: str, x: Tensor, conditions: Mapping[str, NDArray[Any]], run_graph: RunGraph
) -> Tensor:
    part = extract_module(graph, name)
    source, *read = part.graph.inputs
    feeds = {"x": _as_read(x, source).numpy().astype(_float_type(source))} | {
        str(value.name): conditions[str(value.name)] for value in read
    }
    return torch.from_numpy(run_graph(ir.to_proto(part).SerializeToString(), feeds)).float()


def _float_type(value: ir.Value) -> type[np.floating[Any]]:
    return np.float16 if value.dtype == ir.DataType.FLOAT16 else np.float32


def _traced(simulation: nn.Module, names: Sequence[str], pairs: Pairs) -> dict[str, tuple[Call, Tensor]]:
    """What each of the modules `names` is called with and makes inside the simulation."""
    seen: dict[str, tuple[Call, Tensor]] = {}

    def hook(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        seen[name] = Call.of(module, args, kwargs, output), output

    handles = [
        simulation.get_submodule(name).register_forward_hook(
            lambda module, args, kwargs, output, name=name: hook(name, module, args, kwargs, output), with_kwargs=True
        )
        for name in names
    ]
    try:
        pairs.through(simulation)
    finally:
        for handle in handles:
            handle.remove()
    return {name: seen[name] for name in names}


def _compare(name: str, module: nn.Module, expected: Tensor, found: Tensor, bound_db: float) -> LocalParity:
    quality_db = statistics.median_low(map(sqnr_db, expected, found))
    kind = "layer" if isinstance(module, QuantisedLayer) else "block"
    if not isinstance(module, QuantisedLayer) or not module.has_output_grid:
        return LocalParity(name, kind, quality_db, round(bound_db, 4), 0.0, 0.0, quality_db >= bound_db)
    grid = module.output_scale.reshape(-1, 1, 1)
    steps = ((found - expected) / grid).abs().round()
    max_steps, share_off = steps.max().item(), (steps > 0).float().mean().item()
    ok = max_steps <= MAX_STEPS and share_off <= MAX_SHARE_OFF
    return LocalParity(name, kind, quality_db, None, max_steps, share_off, ok)
