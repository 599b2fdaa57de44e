"""Learned codes = exported codes: the integers in the `.onnx` file are compared byte for byte with the simulation's."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from ptq_export.errors import GateFailed
from ptq_export.graph.name_layers import LAYER_OPS
from ptq_export.nn.layers import QuantisedLayer

__all__ = ["check_codes"]

WEIGHT, BIAS = 1, 2


def check_codes(model: ir.Model, layers: Mapping[str, QuantisedLayer]) -> None:
    """Compare weight codes, their scales and bias codes of every quantised layer with the graph's initialisers.

    Raises:
        GateFailed: a layer is absent from the graph or differs; the message names it.
    """
    nodes = {node.name: node for node in model.graph if node.op_type in LAYER_OPS}
    for name, layer in layers.items():
        if name not in nodes:
            raise GateFailed(f"{name} is not in the exported graph", "please report this with the checkpoint's format")
        expected = {
            (WEIGHT, 0): layer.weight_codes,
            (WEIGHT, 1): layer.weight_scale,
            (BIAS, 0): layer.bias_codes,
            (BIAS, 1): layer.bias_scale,
        }
        for (operand, index), tensor in expected.items():
            found = _constant(nodes[name], operand, index)
            if found is None or found.dtype != tensor.numpy().dtype or not np.array_equal(found, tensor.numpy()):
                part = "weights" if operand == WEIGHT else "bias"
                raise GateFailed(f"{name}: the {part} in the graph are not the calibrated ones")


def _constant(node: ir.Node, operand: int, index: int) -> np.ndarray | None:
    value = node.inputs[operand] if operand < len(node.inputs) else None
    dequantize = value.producer() if value is not None else None
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    tensor = dequantize.inputs[index]
    return tensor.const_value.numpy() if tensor is not None and tensor.const_value is not None else None
