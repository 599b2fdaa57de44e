"""The time embedding as a table: what depends on an integer 0 <= t < T alone is computed once, at export."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptq_export.graph.passes.merge_projections import MergeProjections
from ptq_export.graph.passes.strip_metadata import OWN_PREFIX
from ptq_export.graph.splice import Array, record, splice, split_channels
from ptq_export.graph.tabulate import TimeFunction

__all__ = ["ACCEPTED_TIMESTEPS", "FoldTimeEmbedding"]

ACCEPTED_TIMESTEPS = f"{OWN_PREFIX}timesteps"
"""The folded model's own note of the time-steps that it accepts: `0..999`, or a list: `0,50,100`."""

MAX_EMBEDDING_BYTES = 16 * 2**20
"""A table of SiLU(temb) alone takes 1 to 8 MB on published nets."""

_PRODUCTS = {"Gemm", "MatMul", "Conv"}


class FoldTimeEmbedding(ir.passes.InPlacePass):
    """Replace the nodes that depend on the input `timestep` alone by a look-up, `Gather(table, timestep)`.

    1. The frontier: values computed from `timestep` alone that other nodes read, one projection per residual block.
       All of them over 0..T-1 make one table; a Split gives each block its channels.
    2. If that is larger than `max_table_bytes`: the same over `timesteps` only, where the caller knows them (the
       sampler's own steps). ONNX Runtime then refuses any other.
    3. Else the latest value through which all of the frontier is computed, SiLU(temb), over 0..T-1, if that table is
       at most `MAX_EMBEDDING_BYTES`. In a class-conditional net the frontier is one such value already: temb, to which
       the label's embedding is added.
    4. The projections that are left to run read one value: they become one Gemm (`MergeProjections`).
    5. Unchanged if `timestep` is no int64 `[N]`, if no matrix product would go, if no table is small enough, or if a
       row depends on more than its own time-step.

    ONNX Runtime refuses t >= T. It does not refuse t < 0: Gather counts those from the end, down to -T.
    """

    def __init__(
        self, num_train_timesteps: int, timesteps: Sequence[int] | None = None, max_table_bytes: int = 16 * 2**20
    ) -> None:
        super().__init__()
        self.num_train_timesteps = num_train_timesteps
        self.timesteps = sorted(set(timesteps or ()))
        self.max_table_bytes = max_table_bytes
        if self.timesteps and not 0 <= self.timesteps[0] <= self.timesteps[-1] < num_train_timesteps:
            raise ValueError(f"timesteps must lie in 0..{num_train_timesteps - 1}: {self.timesteps}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        timestep = _integer_timestep(model.graph)
        if timestep is not None:
            for cut in _cuts(_time_nodes(model.graph, timestep), timestep):
                if self._fold(model, timestep, cut):
                    return ir.passes.PassResult(model, modified=True)
        return ir.passes.PassResult(model, modified=False)

    def _fold(self, model: ir.Model, timestep: ir.Value, cut: "_Cut") -> bool:
        function = TimeFunction(model, timestep, cut.values)
        steps = self._affordable_steps(cut, function.row_bytes())
        tables = function.tabulate(steps) if steps else None
        if tables is None:
            return False
        tape = ir.tape.Tape()
        row = timestep if len(steps) == self.num_train_timesteps else self._listed_row(tape, timestep, steps)
        replaced = _look_up(tape, row, dict(zip(cut.values, tables, strict=True)))
        splice(model, model.graph[0], tape, replaced)
        MergeProjections()(model)
        everything = f"0..{self.num_train_timesteps - 1}"
        model.metadata_props[ACCEPTED_TIMESTEPS] = everything if row is timestep else ",".join(map(str, steps))
        return True

    def _affordable_steps(self, cut: "_Cut", row_bytes: int) -> Sequence[int]:
        """The most time-steps whose table is small enough; empty if there are none."""
        choices = (range(self.num_train_timesteps), self.timesteps if cut.is_frontier else ())
        limit = self.max_table_bytes if len(cut.values) > 1 else max(self.max_table_bytes, MAX_EMBEDDING_BYTES)
        return next((steps for steps in choices if row_bytes * len(steps) <= limit), ())

    def _listed_row(self, tape: ir.tape.Tape, timestep: ir.Value, steps: Sequence[int]) -> ir.Value:
        """The table row of each listed time-step; of any other, one past the end, which the engine refuses."""
        rows = np.full(self.num_train_timesteps, len(steps), np.int64)
        rows[list(steps)] = np.arange(len(steps))
        return record(tape, "Gather", [tape.initializer(ir.tensor(rows, name="time_rows")), timestep], "time_row")


@dataclass(frozen=True)
class _Cut:
    """Values through which alone `timestep` acts on the net, and the nodes that need not run once they are known."""

    values: Sequence[ir.Value]
    nodes: Sequence[ir.Node]
    is_frontier: bool


def _integer_timestep(graph: ir.Graph) -> ir.Value | None:
    """The input `timestep` if it is an int64 `[N]` and no other dimension than N is dynamic anywhere."""
    inputs = {value.name: value for value in graph.inputs}
    timestep = inputs.get("timestep")
    if timestep is None or timestep.dtype != ir.DataType.INT64 or timestep.shape is None or len(timestep.shape) != 1:
        return None
    shapes = [value.shape for value in inputs.values()]
    static = all(shape is not None and all(isinstance(dim, int) for dim in shape[1:]) for shape in shapes)
    return timestep if static else None


def _time_nodes(graph: ir.Graph, timestep: ir.Value) -> list[ir.Node]:
    """The nodes, in order, that read what `timestep` holds, and of the other inputs their shapes at most."""
    time = {timestep}
    other = set(graph.inputs) - time
    nodes = []
    for node in graph:
        read = set(node.inputs)
        if node.op_type in ("Shape", "Size"):
            continue
        if read & other or _has_subgraph(node):
            other.update(node.outputs)
        elif read & time:
            time.update(node.outputs)
            nodes.append(node)
    return nodes


def _has_subgraph(node: ir.Node) -> bool:
    """Whether the node (If, Loop) may read values that are not among its inputs."""
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def _cuts(nodes: Sequence[ir.Node], timestep: ir.Value) -> Iterator[_Cut]:
    """The frontier, then single values that all of it depends on, from the latest on; only after a matrix product."""
    place = {node: index for index, node in enumerate(nodes)}
    values = [value for node in nodes for value in node.outputs]
    frontier = [v for v in values if v.is_graph_output() or any(use.node not in place for use in v.uses())]
    last_use = {v: max((place.get(use.node, -1) for use in v.uses()), default=-1) for v in [timestep, *values]}
    last_use |= dict.fromkeys(frontier, len(nodes))
    first_product = next((index for index, node in enumerate(nodes) if node.op_type in _PRODUCTS), len(nodes))
    if not frontier or first_product == len(nodes):
        return
    yield _Cut(frontier, nodes, is_frontier=True)
    for end in range(len(nodes) - 1, first_product, -1):
        produced = [timestep, *(value for node in nodes[:end] for value in node.outputs)]
        live = [value for value in produced if last_use[value] >= end]
        if len(live) == 1 and live[0] is not timestep:
            yield _Cut(live, nodes[:end], is_frontier=False)


def _look_up(tape: ir.tape.Tape, row: ir.Value, tables: dict[ir.Value, Array]) -> dict[ir.Value, ir.Value]:
    """For each value the one that reads its table `[rows, C, ...]` at the indices `row` `[N]`.

    Tables that differ in their channels (axis 1) at most are read as one: all the `[N, C_i, 1, 1]` in one Gather.
    """
    groups: dict[object, list[ir.Value]] = {}
    for value, table in tables.items():
        groups.setdefault((table.dtype, table.shape[2:]) if table.ndim > 1 else value, []).append(value)
    found: dict[ir.Value, ir.Value] = {}
    for number, values in enumerate(groups.values()):
        name, members = f"time_table_{number}", [tables[value] for value in values]
        axis = min(1, members[0].ndim - 1)
        stack = tape.initializer(ir.tensor(np.concatenate(members, axis=axis), name=name))
        rows = record(tape, "Gather", [stack, row], f"{name}_rows")
        widths = [member.shape[axis] for member in members]
        found |= zip(values, split_channels(tape, rows, widths, f"{name}_split"), strict=True)
    return found
