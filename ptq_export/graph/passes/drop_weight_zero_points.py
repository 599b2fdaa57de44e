"""Weights around zero need no zero point: it is left out, which ONNX reads as 0.

The exporter lets layers of equal width share one vector of zeros. OpenVINO (2026.4) then folds the weights of a
convolution and a Gemm that share it into float32, and computes both in float, without a word.
"""

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

__all__ = ["DropWeightZeroPoints"]


class DropWeightZeroPoints(ir.passes.InPlacePass):
    """Remove the zero point of every DequantizeLinear that reads an initialiser, if it is all 0.

    1. An activation's zero point stays: it makes the codes uint8.
    2. A zero point other than 0 stays.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        modified = False
        for node in model.graph:
            if _reads_weights(node) and _is_zero(node.inputs[2]):
                node.resize_inputs(2)
                modified = True
        if modified:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=modified)


def _reads_weights(node: ir.Node) -> bool:
    if node.op_type != "DequantizeLinear" or len(node.inputs) < 3:
        return False
    return node.inputs[0] is not None and node.inputs[0].is_initializer()


def _is_zero(value: ir.Value | None) -> bool:
    tensor = None if value is None else ir.convenience.get_const_tensor(value)
    return tensor is not None and not tensor.numpy().any()
