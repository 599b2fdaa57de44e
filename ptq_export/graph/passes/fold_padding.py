"""Zeros around an activation as the padding of the convolution that reads it: one pass over memory less."""

import numpy as np
import onnx_ir as ir

__all__ = ["FoldPadding"]


class FoldPadding(ir.passes.InPlacePass):
    """Move a Pad of height and width with zeros into the attribute `pads` of the Conv behind it.

    1. A Pad that something else reads too stays: its result is needed.
    2. A Pad of the batch or the channels, with another value or mode, or with negative sizes stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in list(model.graph):
            conv, sizes = _reader(node), _sizes(node)
            if conv is None or sizes is None:
                continue
            own = conv.attributes.get_ints("pads", [0, 0, 0, 0])
            conv.attributes["pads"] = ir.AttrInt64s("pads", [a + b for a, b in zip(own, sizes, strict=True)])
            conv.replace_input_with(0, node.inputs[0])
            model.graph.remove(node, safe=True)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _reader(node: ir.Node) -> ir.Node | None:
    """The Conv that alone reads a Pad's result, with plain padding of its own."""
    uses = list(node.outputs[0].uses()) if node.op_type == "Pad" else []
    if len(uses) != 1 or uses[0].idx != 0 or node.outputs[0].is_graph_output():
        return None
    conv = uses[0].node
    return conv if conv.op_type == "Conv" and conv.attributes.get_string("auto_pad", "NOTSET") == "NOTSET" else None


def _sizes(node: ir.Node) -> list[int] | None:
    """Zeros above, left, below, right; None where the Pad is another."""
    if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "constant" or len(node.inputs) > 3:
        return None
    pads, *value = (None if read is None else ir.convenience.get_const_tensor(read) for read in node.inputs[1:])
    if pads is None or any(given is not None and np.any(given.numpy()) for given in value):
        return None
    if any(read is not None and given is None for read, given in zip(node.inputs[2:], value, strict=True)):
        return None  # the value is computed at run time
    sizes = [int(size) for size in pads.numpy()]
    spatial = [*sizes[2:4], *sizes[6:8]]
    return spatial if len(sizes) == 8 and sum(map(abs, sizes)) == sum(spatial) else None
