"""Partial evaluation by what a value depends on: what conditions alone decide is computed once per prompt.

A prompt's keys and values are the same at every step of a sampler. They become the outputs of a graph of their own, the
prompt graph, and inputs of the step graph.
"""

import itertools
import re
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from math import prod
from typing import TypeAlias

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from ptq_export.interface import SAMPLE, TIMESTEP

__all__ = ["join_conditions", "split_conditions"]

Size: TypeAlias = int | str | None
PREFIX = "prompt_"
_PRODUCTS = frozenset({"Gemm", "MatMul", "Conv", "ConvTranspose"})
_QUANTISERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_RANDOM = frozenset({"RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike", "Bernoulli", "Dropout"})


def split_conditions(model: ir.Model) -> tuple[ir.Model, ir.Model] | None:
    """The step graph and the prompt graph of a denoiser; None where conditions alone decide nothing worth a graph.

    1. A value depends on conditions alone if it is computed from them, their batch and constants, and no quantiser,
       subgraph or random operator is on the way.
    2. From each node of the step that reads such a value, upwards: the first that is float32 `[batch, ...]`, its other
       sizes numbers or the conditions' own open ones, and that a matrix product or convolution leads to, becomes an
       output of the prompt graph and an input of the step graph, named after the last product on its way.
    3. What is passed on the way there stays in the step graph: the arithmetic of shapes and masks, a table of labels.
    4. Conditions that a graph reads no more are no inputs of it; the size of one that is read for nothing else is read
       from another input.

    `model` is not changed. Nodes keep their names, in either graph.
    """
    step = model.clone()
    graph = step.graph
    conditions = [value for value in graph.inputs if value.name not in (SAMPLE, TIMESTEP)]
    _read_sizes_of(conditions, (node for node in graph if node.op_type == "Shape"))
    alone = _alone(graph)
    if not any(alone.values()) or any(value in alone for value in graph.outputs):
        return None
    shapes = _shapes(step, [value for value, worth in alone.items() if worth])
    boundary = _boundary(graph, alone, shapes)
    if not boundary:
        return None
    names = _names(graph, boundary)
    prompt = _extract(step, boundary)
    for value, output, name in zip(boundary, prompt.graph.outputs, names, strict=True):
        output.name, output.shape = name, shapes[str(value.name)]
        given = ir.Value(name=name, type=value.type, shape=output.shape)
        value.replace_all_uses_with(given)
        graph.inputs.append(given)
    _drop_unread(step, {SAMPLE, TIMESTEP})
    _drop_unread(prompt, set())
    return step, prompt


def join_conditions(step: ir.Model, prompt: ir.Model) -> ir.Model:
    """One graph of both: the inverse of `split_conditions`. Both arguments are used up.

    Names of the prompt graph that the step graph has, too, get a prefix: nodes that both need are there twice.

    Raises:
        KeyError: the step graph has no input of a value's name, or the prompt graph reads what is none of its inputs.
    """
    graph, source = step.graph, prompt.graph
    made = {str(value.name): value for value in source.outputs}
    inputs = {str(value.name): value for value in graph.inputs}
    read = {str(value.name): value for value in source.inputs}
    nodes, constants = list(source), list(source.initializers.values())
    source.outputs[:] = []
    source.inputs[:] = []
    source.initializers.clear()
    source.remove(nodes)
    _rename(graph, nodes, constants)
    for name, value in read.items():
        if name not in inputs:
            given = ir.Value(name=name, type=value.type, shape=value.shape)
            graph.inputs.append(given)
            inputs[name] = given
        value.replace_all_uses_with(inputs[name])
    for name, value in made.items():
        graph.inputs.remove(inputs[name])
        inputs[name].replace_all_uses_with(value)
    for constant in constants:
        graph.register_initializer(constant)
    graph.extend(nodes)
    graph.sort()
    return step


def _alone(graph: ir.Graph) -> dict[ir.Value, bool]:
    """The values that depend on conditions alone, and of each whether a product leads to it."""
    found = {value: False for value in graph.inputs if value.name not in (SAMPLE, TIMESTEP)}
    constant = set(graph.initializers.values())
    for node in graph:
        read = {value for value in node.inputs if value is not None}
        if _has_subgraph(node) or node.op_type in _RANDOM:
            continue
        if read <= constant:
            constant.update(node.outputs)
        elif read <= constant | found.keys() and node.op_type not in _QUANTISERS:
            worth = node.op_type in _PRODUCTS or any(found.get(value, False) for value in read)
            found |= dict.fromkeys(node.outputs, worth)
    return found


def _has_subgraph(node: ir.Node) -> bool:
    """Whether the node (If, Loop) may read values that are not among its inputs."""
    return any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values())


def _boundary(graph: ir.Graph, alone: Mapping[ir.Value, bool], shapes: Mapping[str, ir.Shape | None]) -> list[ir.Value]:
    """What nodes of the step read, or the nearest above it that can be handed over, in the order of the graph."""
    sizes = {_size(dim) for value in graph.inputs if value in alone for dim in list(value.shape or [])[1:]}
    batch = next(_size(value.shape[0]) for value in graph.inputs if value.name == SAMPLE and value.shape)
    steps = [node for node in graph if not alone.keys() >= set(node.outputs)]
    waiting = [value for node in steps for value in node.inputs]
    passed: set[ir.Value] = set()
    found: set[ir.Value] = set()
    while waiting:
        value = waiting.pop()
        if value is None or value not in alone or value in passed:
            continue
        passed.add(value)
        if alone[value] and value.dtype == ir.DataType.FLOAT and _fits(shapes[str(value.name)], batch, sizes):
            found.add(value)
        elif (producer := value.producer()) is not None:
            waiting += producer.inputs
    return [value for node in graph for value in node.outputs if value in found]


def _fits(shape: ir.Shape | None, batch: Size, sizes: Collection[Size]) -> bool:
    """Whether the shape is `[batch, ...]`, its other sizes numbers or open ones that have a name."""
    first, *rest = [None] if shape is None else map(_size, shape)
    return first == batch and all(isinstance(size, int) or (size is not None and size in sizes) for size in rest)


def _size(dim: int | ir.SymbolicDim) -> Size:
    return dim if isinstance(dim, int) else dim.value


def _extract(model: ir.Model, values: Sequence[ir.Value]) -> ir.Model:
    """What computes `values`, as a model of the same inputs."""
    graph = model.graph
    part = ir.convenience.extract(graph, graph.inputs, values)
    constants = dict(part.initializers)
    part.initializers.clear()
    for name in graph.initializers:  # in their order: onnx-ir gathers them in a set, and bytes would differ by chance
        if name in constants:
            part.register_initializer(constants[name])
    return ir.Model(part, ir_version=model.ir_version)


def _shapes(model: ir.Model, values: Sequence[ir.Value]) -> dict[str, ir.Shape | None]:
    """The shapes of values, as far as ONNX infers them and a Reshape to `[-1, C, ...]` keeps the batch."""
    part = _extract(model, values)
    infer = ShapeInferencePass(check_type=False, strict_mode=False)
    given = {_size(dim) for value in part.graph.inputs for dim in value.shape or ()}
    infer(part)
    for node in part.graph:
        shape = _reshaped(node)
        for value in node.outputs:
            known = value.shape is not None and all(isinstance(it, int) or _size(it) in given for it in value.shape)
            value.shape = shape or (value.shape if known else None)  # names that were made up would stay
    infer(part)
    return {str(value.name): output.shape for value, output in zip(values, part.graph.outputs, strict=True)}


def _reshaped(node: ir.Node) -> ir.Shape | None:
    """The shape that a Reshape to `[-1, C, ...]` makes, where it has as many numbers per row as what it reads."""
    source, target = node.inputs[:2] if node.op_type == "Reshape" else (None, None)
    tensor = None if target is None else ir.convenience.get_const_tensor(target)
    if source is None or not source.shape or tensor is None:
        return None
    batch, *read = source.shape
    first, *made = tensor.numpy().reshape(-1).tolist()
    numbers = [size for size in read if isinstance(size, int)]
    same = len(numbers) == len(read) and min(made, default=1) > 0 and prod(made) == prod(numbers)
    return ir.Shape([batch, *made]) if first == -1 and same else None


def _drop_unread(model: ir.Model, kept: Collection[str]) -> None:
    """Remove the nodes and inputs that are not needed, but for the inputs that are `kept`."""
    RemoveUnusedNodesPass()(model)
    inputs = model.graph.inputs
    read = [value for value in inputs if any(use.node.op_type != "Shape" for use in value.uses())]
    for value in (value for value in inputs if value not in read and value.name not in kept):
        _read_sizes_of(read, [use.node for use in value.uses()])
    inputs[:] = [value for value in inputs if value.uses() or value.name in kept]


def _read_sizes_of(inputs: Sequence[ir.Value], nodes: Iterable[ir.Node]) -> None:
    """Let Shape nodes that read one size which has a name read it from `inputs`, where one has it."""
    for node in nodes:
        if (place := _place(node, inputs)) is not None:
            source, axis = place
            node.replace_input_with(0, source)
            node.attributes.update(start=ir.AttrInt64("start", axis), end=ir.AttrInt64("end", axis + 1))


def _place(node: ir.Node, inputs: Sequence[ir.Value]) -> tuple[ir.Value, int] | None:
    """The input, and the axis of it, that has the one size under its name which a Shape node reads."""
    source = node.inputs[0]
    sizes = list(source.shape or []) if source is not None else []
    wanted = sizes[node.attributes.get_int("start", 0) : node.attributes.get_int("end", len(sizes))]
    name = _size(wanted[0]) if len(wanted) == 1 else None
    places = ((value, axis) for value in inputs for axis, dim in enumerate(value.shape or []) if _size(dim) == name)
    return None if name is None else next(places, None)


def _names(graph: ir.Graph, boundary: Iterable[ir.Value]) -> list[str]:
    """`prompt_` and the path of the last product on the way to each value, as an identifier that is not taken."""
    taken = {value.name for value in ir.convenience.create_value_mapping(graph).values()}
    names: list[str] = []
    for value in boundary:
        bare = PREFIX + re.sub(r"\W", "_", str(_last_product(value).name), flags=re.ASCII)
        again = (f"{bare}_{number}" for number in itertools.count(2))
        names.append(next(name for name in itertools.chain([bare], again) if name not in taken))
        taken.add(names[-1])
    return names


def _last_product(value: ir.Value) -> ir.Node:
    """The nearest product above a value that has one."""
    above = deque([value])
    while True:
        node = above.popleft().producer()
        if node is not None and node.op_type in _PRODUCTS:
            return node
        above += [read for read in (() if node is None else node.inputs) if read is not None]


def _rename(graph: ir.Graph, nodes: Iterable[ir.Node], constants: Iterable[ir.Value]) -> None:
    """Give nodes and values that are to come into the graph names that it does not have."""
    taken = {node.name for node in graph}
    values = ir.convenience.create_value_mapping(graph)
    for node in nodes:
        node.name = f"{PREFIX}{node.name}" if node.name in taken else node.name
        for value in node.outputs:
            value.name = f"{PREFIX}{value.name}" if value.name in values else value.name
    for constant in constants:
        constant.name = f"{PREFIX}{constant.name}" if constant.name in values else constant.name
