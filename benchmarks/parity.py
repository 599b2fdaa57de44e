"""Simulation = engine, proved where it can be proved: layer by layer and block by block, then as a whole.

Deep outputs are not compared bit by bit: float rounding flips a code, a flipped code flips its successors, and some
sixteen convolutions on two correct executions of one graph are as far apart as either is from full precision. So

  locally   the engine runs each layer and each block alone, on the simulation's own inputs: a layer with an output
            grid differs by at most one step on at most 1 % of the elements; a layer without one, and a block, reach
            at least 50 dB;
  globally  the engine's error against full precision is as large as the simulation's, at every time-step: the SQNR
            is equal within 0.5 dB over 64 pairs, widened by twice the standard error of the gap where there are fewer.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptq_export.benchmarks.fidelity import Curve, finite_db, sqnr_db, sqnr_gap_db
from ptq_export.graph.extract import extract_module
from ptq_export.nn.layers import QuantisedLayer

__all__ = ["GlobalParity", "LocalParity", "global_parity", "local_parity"]

MIN_BLOCK_DB = 50.0
MAX_STEPS, MAX_SHARE_OFF = 1.0, 0.01
MAX_GAP_DB, FULL_PAIRS = 0.5, 64
RunGraph = Callable[[bytes, Mapping[str, NDArray[Any]]], NDArray[np.float32]]


@dataclass(frozen=True)
class LocalParity:
    """One layer or block alone; `max_steps` and `share_off` speak of its output grid (0 where it has none)."""

    block: str
    kind: str
    sqnr_db: float
    max_steps: float
    share_off: float
    ok: bool

    def to_json(self) -> dict[str, Any]:
        """An entry of `local` in `parity.json`."""
        return asdict(self) | {"sqnr_db": finite_db(self.sqnr_db)}


@dataclass(frozen=True)
class GlobalParity:
    """SQNR against full precision of simulation and engine at one time-step."""

    timestep: int
    simulation_db: float
    engine_db: float
    bound_db: float
    ok: bool

    def to_json(self) -> dict[str, Any]:
        """An entry of `global` in `parity.json`."""
        return asdict(self)


@torch.no_grad()
def local_parity(
    simulation: nn.Module,
    graph: ir.Model,
    modules: Iterable[str],
    run_graph: RunGraph,
    sample: Tensor,
    timestep: Tensor,
) -> list[LocalParity]:
    """Run every one of `modules` (paths of quantised layers and of blocks that hold them) alone in the engine.

    `run_graph(onnx_bytes, inputs)` is the engine; `sample` `[N, C, H, W]` and `timestep` `[N]` feed the simulation.
    """
    results = []
    for name in modules:
        module = simulation.get_submodule(name)
        x, expected = _traced(simulation, module, sample, timestep)
        part = extract_module(graph, name)
        feeds = {"timestep": timestep.numpy()} if len(part.graph.inputs) > 1 else {}
        feeds["x"] = _as_read(x, part.graph.inputs[0]).numpy()
        found = torch.from_numpy(run_graph(ir.to_proto(part).SerializeToString(), feeds))
        # The exporter merges a linear's reshapes with its neighbours': rows or heads, the order of values is the same.
        results.append(_compare(name, module, expected, found.reshape(expected.shape)))
    return results


def global_parity(simulation: Curve, engine: Curve) -> list[GlobalParity]:
    """Compare the two curves, which met the same pairs."""
    pairs = simulation.signal.shape[1]
    rows = zip(simulation.timesteps, simulation.sqnr_db, engine.sqnr_db, sqnr_gap_db(engine, simulation), strict=True)
    results = []
    for timestep, simulation_db, engine_db, (gap_db, stderr_db) in rows:
        bound_db = MAX_GAP_DB + (0.0 if pairs >= FULL_PAIRS else 2 * stderr_db)
        ok = abs(gap_db) <= bound_db
        results.append(GlobalParity(timestep, finite_db(simulation_db), finite_db(engine_db), round(bound_db, 4), ok))
    return results


def _as_read(x: Tensor, value: ir.Value) -> Tensor:
    """`x` in the shape that the graph's input has, its first dimension open."""
    return x if value.shape is None else x.reshape(-1, *(size for size in value.shape[1:] if isinstance(size, int)))


class _Reached(Exception):
    pass


def _traced(simulation: nn.Module, module: nn.Module, sample: Tensor, timestep: Tensor) -> tuple[Tensor, Tensor]:
    """What `module` reads first and what it makes, inside the simulation."""
    seen: list[Tensor] = []

    def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen.extend((inputs[0], output))
        raise _Reached

    handle = module.register_forward_hook(hook)
    try:
        simulation(sample, timestep)
    except _Reached:
        pass
    finally:
        handle.remove()
    return seen[0], seen[1]


def _compare(name: str, module: nn.Module, expected: Tensor, found: Tensor) -> LocalParity:
    quality_db = sqnr_db(expected, found)
    if not isinstance(module, QuantisedLayer):
        return LocalParity(name, "block", quality_db, 0.0, 0.0, quality_db >= MIN_BLOCK_DB)
    if not module.has_output_grid:
        return LocalParity(name, "layer", quality_db, 0.0, 0.0, quality_db >= MIN_BLOCK_DB)
    grid = module.output_scale.reshape(-1, 1, 1)
    steps = ((found - expected) / grid).abs().round()
    max_steps, share_off = steps.max().item(), (steps > 0).float().mean().item()
    return LocalParity(
        name, "layer", quality_db, max_steps, share_off, max_steps <= MAX_STEPS and share_off <= MAX_SHARE_OFF
    )
