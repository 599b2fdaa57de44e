"""What `exports_once` gives is what the exporter would have made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from exports_once import once
from torch import nn

from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.graph.export import EXAMPLE_BATCH, export_module
from ptq_export.interface import SAMPLE, TIMESTEP, Input
from ptq_export.pairs import Pairs

INPUTS = (Input(SAMPLE, "float32", (1, 4, 4)), Input(TIMESTEP, "int64"))
EXAMPLE = Pairs(torch.randn(EXAMPLE_BATCH, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([3, 7]))


class Net(nn.Module):
    """A weight that stands in the graph as it is, one that is transposed there, and one with which more is computed."""

    def __init__(self, conv: float = 1.0, linear: float = 1.0, gain: float = 1.0, width: int = 4) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(1, width, 3, padding=1), nn.Linear(width, 1)
        self.register_buffer("gain", torch.full((1,), gain))
        with torch.no_grad():
            self.conv.weight *= conv
            self.linear.weight *= linear

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        hidden = self.conv(sample) + timestep.float()[:, None, None, None]
        return self.linear(hidden.movedim(1, 3)).movedim(3, 1) * (self.gain * 2 + 1)


class Counted:
    """`export_module`, and how often it was asked."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, module: nn.Module, example: Pairs, inputs: Sequence[Input]) -> ir.Model:
        self.calls += 1
        return export_module(module, example, inputs)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the graph of `Net()`."""
    folder = tmp_path_factory.mktemp("kept")
    once(export_module, folder)(Net(), EXAMPLE, INPUTS)
    return folder


@pytest.mark.parametrize(
    ("changed", "exports"),
    [({}, 0), ({"conv": 2.0}, 0), ({"linear": 2.0}, 1), ({"gain": 2.0}, 1), ({"width": 5}, 1)],
    ids=["nothing", "a value", "a value that is transposed", "a value that is computed with", "the structure"],
)
def test_a_graph_has_the_values_of_its_own_network(kept: Path, changed: dict[str, Any], exports: int) -> None:
    counted, net = Counted(), Net(**changed)
    graph = ir.to_proto(once(counted, kept)(net, EXAMPLE, INPUTS)).SerializeToString()
    assert counted.calls == exports
    found = OrtEngine.run_graph(graph, {name: value.numpy() for name, value in EXAMPLE.feeds.items()})
    np.testing.assert_allclose(found, net(EXAMPLE.sample, EXAMPLE.timestep).detach(), rtol=1e-5, atol=1e-5)
