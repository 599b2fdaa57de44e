"""Float16 everywhere but at the ends, codes as they were, and the same result but for float16's rounding."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from exported_net import exported
from onnxruntime import InferenceSession
from torch import nn

from ptq_export.calibrators.rounding import SoftLayer
from ptq_export.graph.audit import check_codes
from ptq_export.graph.passes.half_precision import OPSET, HalfPrecision
from ptq_export.graph.passes.name_layers import NameLayers
from ptq_export.nn.layers import Grid, QuantisedLayer
from ptq_export.nn.scheme import TENSORRT

FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


class Net(nn.Module):
    """A norm, a resize, an int8 convolution and a look-up by the time-step."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.table = nn.GroupNorm(4, 16), nn.Embedding(4096, 16)
        grid = Grid(torch.tensor(2.0**-5), torch.tensor(0, dtype=torch.int8))
        conv = nn.Conv2d(16, 16, 3, padding=1).requires_grad_(False)
        conv.bias[:3] = torch.tensor([1e-9, 3e-8, -1e-40])  # float16 ends at 6e-8
        self.conv: QuantisedLayer = SoftLayer(conv, grid, None, TENSORRT, learn=False).harden()

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        x = nn.functional.interpolate(sample, scale_factor=2.0) + self.table(timestep)[:, :, None, None]
        return self.conv(nn.functional.silu(self.norm(x)))


@pytest.fixture(scope="module")
def graphs() -> tuple[Net, ir.Model, ir.Model]:
    net = Net().eval()
    graph = exported(net, (16, 8, 8))
    NameLayers()(graph)
    return net, graph, HalfPrecision()(graph).model


def test_the_ends_are_float32_and_the_rest_float16(graphs: tuple[Net, ir.Model, ir.Model]) -> None:
    _, _, half = graphs
    assert [value.dtype for value in half.graph.inputs] == [FLOAT, ir.DataType.INT64]
    assert [value.dtype for value in half.graph.outputs] == [FLOAT]
    sizes = [value for value in half.graph.initializers.values() if value.const_value.dtype == FLOAT]
    assert all(use.node.op_type == "Resize" for value in sizes for use in value.uses())
    assert half.opset_imports[""] == OPSET


def test_codes_scales_and_bias_are_the_calibrated_ones(graphs: tuple[Net, ir.Model, ir.Model]) -> None:
    net, _, half = graphs
    check_codes(half, {"conv": net.conv})
    (quantise,) = [node for node in half.graph if node.op_type == "QuantizeLinear"]
    assert quantise.inputs[1].const_value.numpy() == np.float16(2.0**-5)


def test_the_given_graph_is_not_changed(graphs: tuple[Net, ir.Model, ir.Model]) -> None:
    _, graph, _ = graphs
    assert all(value.const_value.dtype != HALF for value in graph.graph.initializers.values())


def test_an_engine_computes_the_same_and_late_time_steps_keep_their_row(
    graphs: tuple[Net, ir.Model, ir.Model],
) -> None:
    """Float16 cannot count beyond 2048."""
    net, _, half = graphs
    session = InferenceSession(ir.to_proto(half).SerializeToString(), providers=["CPUExecutionProvider"])
    sample, timestep = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([2049, 4095])
    (found,) = session.run(None, {"sample": sample.numpy(), "timestep": timestep.numpy()})
    assert found.dtype == np.float32
    wanted = net(sample, timestep).detach()
    assert (torch.from_numpy(found) - wanted).abs().mean() < 0.002 * wanted.abs().mean() + 1e-3
