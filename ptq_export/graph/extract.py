"""One module's part of an exported graph as a model of its own, so that an engine can run a layer or a block alone."""

import onnx_ir as ir

from ptq_export.errors import GateFailed
from ptq_export.graph.passes.name_layers import LAYER_OPS
from ptq_export.graph.scopes import belongs_to, module_path
from ptq_export.interface import SAMPLE

__all__ = ["extract_module"]

_INPUT_SIDE = {"QuantizeLinear", *LAYER_OPS}


def extract_module(model: ir.Model, module: str) -> ir.Model:
    """The nodes of `module`, from the one activation that it reads to the one that it makes.

    Inputs are `x` and, where the module reads what is made of them, the time-step and the conditions, and `sample` for
    its shape; the output is `y`. What depends on those alone comes along. `model` is not changed.

    Raises:
        GateFailed: the module reads or makes several activations: it cannot be run alone.
    """
    timed = _condition_values(model.graph)
    inside = {node for node in model.graph if belongs_to(node, module)}
    _adopt_shared_quantisers(inside)
    outputs = _activations_leaving(inside) - timed
    inputs = _activations_entering(inside) - timed
    if len(inputs) != 1 or len(outputs) != 1:
        raise GateFailed(f"{module} reads {len(inputs)} and makes {len(outputs)} activations: it cannot run alone")
    (source,), (result,) = inputs, outputs
    return _cut(model, source, result)


def _adopt_shared_quantisers(inside: set[ir.Node]) -> None:
    """Take in the quantiser of a sibling: the exporter lets layers with equal grids on one input share it."""
    for value in _activations_entering(inside):
        producer = value.producer()
        products = [use for use in value.uses() if use.node in inside and use.node.op_type in LAYER_OPS]
        if not products or producer is None or producer.op_type != "DequantizeLinear":
            continue
        owner = module_path(producer)
        frontier = [producer]
        while frontier:
            node = frontier.pop()
            inside.add(node)
            above = [read.producer() for read in node.inputs if _is_activation(read) and read is not None]
            frontier += [made for made in above if made is not None and module_path(made) == owner]


def _activations_entering(inside: set[ir.Node]) -> set[ir.Value]:
    made = {value for node in inside for value in node.outputs}
    return {value for node in inside for value in node.inputs if value is not None and _is_activation(value)} - made


def _activations_leaving(inside: set[ir.Node]) -> set[ir.Value]:
    left = set()
    for node in inside:
        for value in node.outputs:
            users = [use.node for use in value.uses()]
            outside = [user for user in users if user not in inside]
            # Siblings on one input share its reshape, and where their grids are equal its quantiser.
            lent = len(outside) < len(users) and all(user.op_type in _INPUT_SIDE for user in outside)
            if value.is_graph_output() or (outside and not lent):
                left.add(value)
    return left


def _is_activation(value: ir.Value | None) -> bool:
    return value is not None and not value.is_initializer() and value.const_value is None


def _condition_values(graph: ir.Graph) -> set[ir.Value]:
    """Every value computed from the time-step, the conditions and the sample's shape alone."""
    timed = {value for value in graph.inputs if value.name != SAMPLE}
    for node in graph:
        read = {value for value in node.inputs if value is not None and _is_activation(value)}
        sized = node.op_type == "Shape" and all(value.name == SAMPLE for value in read)
        if sized or (read and read <= timed):
            timed.update(node.outputs)
    return timed


def _cut(model: ir.Model, source: ir.Value, result: ir.Value) -> ir.Model:
    """A model of copies, of what lies between the two values alone: a large graph is not copied for each layer."""
    given = [source, *(value for value in model.graph.inputs if value is not source)]
    graph = ir.convenience.extract(model.graph, given, [result])
    graph.inputs[0].name, graph.outputs[0].name = "x", "y"
    graph.inputs[1:] = [value for value in graph.inputs[1:] if value.uses()]
    functions = [function.clone() for function in model.functions.values()]
    part = ir.Model(graph, ir_version=model.ir_version, functions=functions, metadata_props=dict(model.metadata_props))
    return ir.external_data.load_to_model(part)
