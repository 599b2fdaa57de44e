"""Layers are named after their modules, and nothing else is renamed."""

import onnx_ir as ir
from graph_models import TinyNet, export, parse
from integer_net import integer_net

from ptq_export.graph.passes.name_layers import NameLayers
from ptq_export.graph.passes.strip_metadata import NAME_SCOPES

NET = """
<ir_version: 10, opset_import: ["": 18]>
net (float[N,2] sample) => (float[N,2] eps) <float[2,2] w = {1, 2, 3, 4}>
{
    a = MatMul(sample, w)
    b = MatMul(a, w)
    column = Transpose(b)
    eps = MatMul(a, column)
}
"""


def names(model: ir.Model) -> list[str | None]:
    return [node.name for node in model.graph]


def net() -> ir.Model:
    """Two products by module `layer`, one of activations by `attention`."""
    model = parse(NET)
    for node, path in zip(model.graph, ("layer", "layer", "", "attention"), strict=True):
        node.metadata_props[NAME_SCOPES] = repr(["", path, "operation"])
    return model


def test_layers_of_an_exported_net_carry_their_module_paths() -> None:
    model = export(TinyNet(), None)
    assert NameLayers()(model).modified
    assert {node.op_type: node.name for node in model.graph if node.name in ("conv", "shift")} == {
        "Conv": "conv",
        "Gemm": "shift",
    }


def test_integer_layers_are_named_too() -> None:
    _, model = integer_net()
    assert {"stem", "block.conv", "block.shift", "mix.q", "mix.k", "head"} <= set(names(model))


def test_second_call_of_a_module_keeps_its_name_and_so_does_a_product_of_activations() -> None:
    model = net()
    assert NameLayers()(model).modified
    assert names(model) == ["layer", "node_b", "node_column", "node_eps"]


def test_second_pass_and_a_graph_without_modules_stay_as_they_are() -> None:
    model = net()
    NameLayers()(model)
    for unchanged in (model, parse(NET)):
        before = names(unchanged)
        assert not NameLayers()(unchanged).modified
        assert names(unchanged) == before


def test_paths_of_torch_s_strict_trace_are_module_paths() -> None:
    model = net()
    for node in model.graph:
        node.metadata_props[NAME_SCOPES] = repr(
            ["", "net.__dict__['_modules']['blocks'].0.__dict__['_modules']['a']", "x"]
        )
    NameLayers()(model)
    assert names(model)[0] == "net.blocks.0.a"
