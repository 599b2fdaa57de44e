"""Put newly recorded nodes in the place of old values: the last step that the rewriting passes share."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

__all__ = ["Array", "record", "splice", "split_channels"]

Array = npt.NDArray[Any]


def record(
    tape: ir.tape.Tape, op_type: str, inputs: Sequence[ir.Value | None], name: str, **attributes: int
) -> ir.Value:
    """A new node with one output, both called `name`: names that the graph gives by itself may hit an initialiser's."""
    return tape.op(op_type, inputs, attributes, name=name, output=ir.Value(name=name))


def split_channels(tape: ir.tape.Tape, value: ir.Value, widths: Sequence[int], name: str) -> Sequence[ir.Value]:
    """`value` `[N, sum(widths), ...]` cut along axis 1; a single piece is the value itself."""
    if len(widths) == 1:
        return [value]
    sizes = tape.initializer(ir.tensor(np.array(widths, np.int64), name=f"{name}_widths"))
    outputs = [ir.Value(name=f"{name}_{index}") for index in range(len(widths))]
    return tape.op_multi_out("Split", [value, sizes], {"axis": 1}, outputs=outputs, name=name)


def splice(model: ir.Model, before: ir.Node, tape: ir.tape.Tape, replaced: Mapping[ir.Value, ir.Value]) -> None:
    """Insert what `tape` recorded before a node, let it stand for the old values, and drop what nothing reads now."""
    for old, new in replaced.items():
        new.type, new.shape = old.type, old.shape
        if old.is_graph_output():
            new.name = old.name
        old.replace_all_uses_with(new, replace_graph_outputs=True)
    model.graph.insert_before(before, tape.nodes)
    RemoveUnusedNodesPass()(model)
    # Registered last: a second run of the same pass reuses the names of initialisers that have just gone.
    for value in tape.initializers:
        model.graph.register_initializer(value)
