"""Keep of an exported model's metadata what ties nodes to modules, and nothing that names the exporting machine."""

from collections.abc import Iterator

import onnx_ir as ir

__all__ = ["NAME_SCOPES", "OWN_PREFIX", "StripMetadata"]

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
"""A node's module path, outermost first, as the text of a Python list: what audits read."""

OWN_PREFIX = "ptq_export."
"""Metadata that this package writes itself (scheme, digests, versions)."""

Described = ir.Model | ir.Graph | ir.Function | ir.Node | ir.Value


class StripMetadata(ir.passes.InPlacePass):
    """Remove stack traces (absolute paths), doc strings and the exporter's other notes.

    1. Doc strings go everywhere: model, graphs, functions, nodes, values.
    2. Metadata goes too, except a node's `NAME_SCOPES` and whatever begins with `OWN_PREFIX`.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for item in _described(model):
            modified |= _strip(item)
        return ir.passes.PassResult(model, modified=modified)


def _described(model: ir.Model) -> Iterator[Described]:
    """Everything in a model that carries a doc string and metadata."""
    yield model
    graphs: list[ir.Graph | ir.Function] = [*model.graphs(), *model.functions.values()]
    for graph in graphs:
        yield graph
        yield from graph.inputs
        if isinstance(graph, ir.Graph):
            yield from graph.initializers.values()
        for node in graph:
            yield node
            yield from node.outputs


def _strip(item: Described) -> bool:
    modified = bool(item.doc_string)
    item.doc_string = None
    for key in list(item.metadata_props):
        kept = key.startswith(OWN_PREFIX) or (key == NAME_SCOPES and isinstance(item, ir.Node))
        if not kept:
            del item.metadata_props[key]
            modified = True
    return modified
