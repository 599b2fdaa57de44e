"""A layer or a block cut out of the graph computes what its module computes."""

import onnx_ir as ir
import pytest
import torch
from graph_models import model_bytes
from integer_net import CHANNELS, integer_net
from torch import Tensor

from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.errors import GateFailed
from ptq_export.graph.extract import extract_module

EQUAL, OTHER = 0.04, 0.05
TIMES = torch.tensor([7, 600])


def activation(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def alone(part: ir.Model, x: Tensor) -> Tensor:
    """The part's result for `x`, which is given in the shape that the part reads."""
    names = [value.name for value in part.graph.inputs]
    feeds = {"x": x.numpy()} | ({"timestep": TIMES.numpy()} if "timestep" in names else {})
    return torch.from_numpy(OrtEngine.run_graph(model_bytes(part), feeds))


def test_conv_alone_equals_its_module_but_for_one_step_of_its_grid() -> None:
    net, graph = integer_net()
    x = activation(2, CHANNELS, 8, 8)
    off = (alone(extract_module(graph, "block.conv"), x) - net.block.conv(x)).abs() / net.block.conv.output_scale[0]
    assert off.max() < 1.01
    assert (off > 0.5).float().mean() < 0.01


@pytest.mark.parametrize("k_scale", [EQUAL, OTHER], ids=["shared quantiser", "shared reshape"])
@pytest.mark.parametrize("name", ["mix.q", "mix.k"])
def test_linear_that_shares_its_input_with_a_sibling_runs_alone(name: str, k_scale: float) -> None:
    net, graph = integer_net(k_scale)
    part = extract_module(graph, name)
    tokens = activation(2, 64, CHANNELS)
    read = part.graph.inputs[0].shape
    found = alone(part, tokens.reshape(-1, CHANNELS) if read is not None and len(read) == 2 else tokens)
    torch.testing.assert_close(found.reshape(tokens.shape), net.get_submodule(name)(tokens), rtol=1e-5, atol=1e-5)


def test_block_brings_along_what_depends_on_the_time_step() -> None:
    net, graph = integer_net()
    part = extract_module(graph, "block")
    x = activation(2, CHANNELS, 8, 8)
    expected = net.block(x, TIMES)
    assert [value.name for value in part.graph.inputs] == ["x", "timestep"]
    assert [value.name for value in part.graph.outputs] == ["y"]
    assert 20 * torch.log10(expected.norm() / (alone(part, x) - expected).norm()) > 50


def test_block_of_two_linears_equals_its_module() -> None:
    net, graph = integer_net(OTHER)
    x = activation(2, CHANNELS, 8, 8)
    found = alone(extract_module(graph, "mix"), x)
    torch.testing.assert_close(found, net.mix(x), rtol=1e-4, atol=1e-4)


def test_part_holds_nothing_but_the_module_and_the_graph_stays_as_it_was() -> None:
    _, graph = integer_net()
    before = model_bytes(graph)
    part = extract_module(graph, "block.conv")
    layers = [node.name for node in part.graph if node.op_type in ("Conv", "Gemm")]
    assert layers == ["block.conv"]
    assert [value.name for value in part.graph.inputs] == ["x"]
    assert model_bytes(graph) == before


@pytest.mark.parametrize(("name", "reads"), [("gate", 2), ("absent", 0)])
def test_module_without_exactly_one_input_is_refused_by_name(name: str, reads: int) -> None:
    _, graph = integer_net()
    with pytest.raises(GateFailed, match=f"{name} reads {reads}"):
        extract_module(graph, name)
