"""The codes in the graph are the calibrated ones, or the layer that differs is named."""

import numpy as np
import onnx_ir as ir
import pytest
from integer_net import integer_net, layers

from ptq_export.errors import GateFailed
from ptq_export.graph.audit import check_codes


def change(model: ir.Model, layer: str, operand: int, index: int) -> None:
    """Move one number of a layer's weights (operand 1) or bias (2) by the least: its codes (index 0) or scale (1)."""
    [node] = [node for node in model.graph if node.name == layer]
    value = node.inputs[operand].producer().inputs[index]
    array = value.const_value.numpy().copy()
    last = array.flat[-1]
    array.flat[-1] = last - 1 if index == 0 else np.nextafter(last, np.float32(1))
    value.const_value = ir.tensor(array, name=value.name)


def test_exported_codes_are_accepted() -> None:
    net, graph = integer_net()
    assert set(layers(net)) == {"block.conv", "mix.q", "mix.k"}
    check_codes(graph, layers(net))


@pytest.mark.parametrize(
    ("layer", "operand", "index", "part"),
    [
        ("block.conv", 1, 0, "weights"),
        ("mix.q", 1, 1, "weights"),
        ("mix.k", 2, 0, "bias"),
        ("block.conv", 2, 1, "bias"),
    ],
    ids=["weight code", "weight scale", "bias code", "bias scale"],
)
def test_one_changed_number_is_refused_with_the_layer_s_name(layer: str, operand: int, index: int, part: str) -> None:
    net, graph = integer_net()
    change(graph, layer, operand, index)
    with pytest.raises(GateFailed, match=f"{layer}: the {part} in the graph"):
        check_codes(graph, layers(net))


def test_layer_that_is_absent_or_float_is_refused_with_its_name() -> None:
    net, graph = integer_net()
    with pytest.raises(GateFailed, match="stem: the weights"):
        check_codes(graph, {"stem": net.block.conv})
    with pytest.raises(GateFailed, match="elsewhere is not in the exported graph"):
        check_codes(graph, {"elsewhere": net.block.conv})
