"""What stays of the exporter's metadata."""

import re
import sysconfig
from pathlib import Path

import onnx_ir as ir
from graph_models import model_bytes, parse, unet

from ptq_export.graph.passes.strip_metadata import NAME_SCOPES, StripMetadata


def test_no_path_of_this_machine_is_left() -> None:
    model = unet()
    folders = [sysconfig.get_path("purelib"), str(Path(__file__).parent), str(Path.home())]
    assert any(folder.encode() in model_bytes(model) for folder in folders)
    assert StripMetadata()(model).modified
    assert not any(folder.encode() in model_bytes(model) for folder in folders)
    proto = ir.to_proto(model)
    del proto.graph.initializer[:]  # weights are noise, in which anything may be found
    assert not re.search(rb"/[\w.-]+/[\w.-]+|\.py\b|[A-Z]:\\", proto.SerializeToString())
    assert {key for node in model.graph for key in node.metadata_props} == {NAME_SCOPES}


def test_nodes_keep_their_module_path() -> None:
    model = unet()
    StripMetadata()(model)
    scopes = [node.metadata_props[NAME_SCOPES] for node in model.graph if node.op_type == "Conv"]
    assert len(scopes) == len([node for node in model.graph if node.op_type == "Conv"])
    assert any("'unet.mid_block.resnets.0.conv1'" in scope for scope in scopes)


def test_own_metadata_stays_and_descriptions_go_everywhere() -> None:
    model = parse(
        "<ir_version: 10, opset_import: ['': 18]> g (float[1] x) => (float[1] y) { y = Relu(x) }".replace("'", '"')
    )
    node = model.graph[0]
    described: list[ir.Model | ir.Graph | ir.Node | ir.Value] = [model, model.graph, node, *node.outputs, *node.inputs]
    for item in described:
        item.doc_string = "/home/user/net.py"
        item.metadata_props.update({"pkg.torch.onnx.stack_trace": "/home/user/net.py", "ptq_export.scheme": "w8a8"})
    assert StripMetadata()(model).modified
    for item in described:
        assert not item.doc_string
        assert item.metadata_props == {"ptq_export.scheme": "w8a8"}


def test_a_stripped_model_is_left_alone() -> None:
    model = unet()
    StripMetadata()(model)
    before = model_bytes(model)
    assert not StripMetadata()(model).modified
    assert model_bytes(model) == before
