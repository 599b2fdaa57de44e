"""Learned codes = exported codes: the integers in the `.onnx` file are compared byte for byte with the simulation's,
and so are the grids that are no layer's input."""

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from torch import Tensor

from ptq_export.errors import GateFailed
from ptq_export.graph.grid_pairs import find_pair
from ptq_export.graph.passes.name_layers import LAYER_OPS
from ptq_export.nn.grid_point import QuantisedGrid, owner_of
from ptq_export.nn.layers import QuantisedLayer

__all__ = ["check_codes", "check_grids"]

WEIGHT, BIAS = 1, 2


def check_codes(model: ir.Model, layers: Mapping[str, QuantisedLayer]) -> None:
    """Compare weight codes, their scales and the bias of every quantised layer with the graph's initialisers.

    Codes are equal byte for byte; so are scales, in whatever float type the graph has them. A bias that is no code is
    equal as far as the graph's float type holds it.

    Raises:
        GateFailed: a layer is absent from the graph or differs; the message names it.
    """
    nodes = {node.name: node for node in model.graph if node.op_type in LAYER_OPS}
    for name, layer in layers.items():
        if name not in nodes:
            raise GateFailed(f"{name} is not in the exported graph", "please report this with the checkpoint's format")
        node = nodes[name]
        if not _same_codes(node, WEIGHT, layer.weight_codes, layer.weight_scale):
            raise GateFailed(f"{name}: the weights in the graph are not the calibrated ones")
        same_bias = (
            _same_codes(node, BIAS, layer.bias_codes, layer.bias_scale)
            if layer.has_integer_bias
            else _same_float(_operand(node, BIAS), layer.bias)
        )
        if not same_bias:
            raise GateFailed(f"{name}: the bias in the graph is not the calibrated one")


def check_grids(model: ir.Model, grids: Mapping[str, QuantisedGrid]) -> None:
    """Find the quantiser of every grid where it belongs, beside or behind its layer, and compare both its scales.

    Raises:
        GateFailed: a grid is not there, or its scale is another; the message names it.
    """
    nodes = {node.name: node for node in model.graph if node.op_type in LAYER_OPS}
    for name, grid in grids.items():
        layer = nodes.get(owner_of(name, grid))
        pair = None if layer is None else find_pair(layer, grid.place)
        if pair is None:
            raise GateFailed(f"{name} is not in the exported graph", "please report this with the checkpoint's format")
        if not all(_same_grid(node, grid) for node in pair):
            raise GateFailed(f"{name}: the grid in the graph is not the calibrated one")


def _same_grid(node: ir.Node, grid: QuantisedGrid) -> bool:
    scale, zero_point = (_numbers(_operand(node, index)) for index in (1, 2))
    if scale is None or zero_point is None or scale.size != 1 or zero_point.dtype != np.int8:
        return False
    return scale.astype(np.float32).item() == grid.scale.item() and zero_point.item() == 0


def _same_codes(node: ir.Node, operand: int, codes: Tensor, scale: Tensor) -> bool:
    value = _operand(node, operand)
    dequantize = value.producer() if value is not None else None
    if dequantize is None or dequantize.op_type != "DequantizeLinear":
        return False
    found_codes, found_scale = (_numbers(value) for value in dequantize.inputs[:2])
    if found_codes is None or found_scale is None or found_codes.dtype != codes.numpy().dtype:
        return False
    return np.array_equal(found_codes, codes.numpy()) and np.array_equal(found_scale.astype(np.float32), scale.numpy())


def _same_float(value: ir.Value | None, wanted: Tensor) -> bool:
    if value is None:  # the exporter leaves out a bias of zeros
        return not wanted.any()
    found = _numbers(value)
    return found is not None and np.array_equal(found, wanted.numpy().astype(found.dtype))


def _operand(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _numbers(value: ir.Value | None) -> np.ndarray | None:
    return None if value is None or value.const_value is None else value.const_value.numpy()
