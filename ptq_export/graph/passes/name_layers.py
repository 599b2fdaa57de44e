"""Convolutions and matrix products carry their module's path as the node's name, so that an engine can be read back."""

import onnx_ir as ir

from ptq_export.graph.scopes import module_path

__all__ = ["LAYER_OPS", "NameLayers"]

LAYER_OPS = {"Conv", "Gemm", "MatMul"}


class NameLayers(ir.passes.InPlacePass):
    """Name each Conv, Gemm and MatMul on constant weights by the module that made it.

    1. A product of two activations (attention) keeps its name: no layer made it.
    2. A module that is called twice keeps the exporter's name for its second call: node names are unique.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        taken = {node.name for node in model.graph}
        modified = False
        for node in model.graph:
            path = module_path(node)
            if node.op_type not in LAYER_OPS or not path or path in taken or not _has_weights(node):
                continue
            node.name = path
            taken.add(path)
            modified = True
        return ir.passes.PassResult(model, modified=modified)


def _has_weights(node: ir.Node) -> bool:
    """Whether the second input is an initialiser, or one behind a DequantizeLinear or a Transpose."""
    weight = node.inputs[1]
    producer = weight.producer() if weight is not None else None
    if producer is not None and producer.op_type in ("DequantizeLinear", "Transpose"):
        weight = producer.inputs[0]
    return weight is not None and weight.is_initializer()
