"""A net of two residual blocks, one with a shortcut, small enough to be exported often; quantised with all grids."""

from collections.abc import Collection
from functools import cache

import onnx_ir as ir
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ptq_export.calibrators.quantise import Method, UnitStore, quantise
from ptq_export.calibrators.sites import find_sites
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.nn.gridded_block import place_grids
from ptq_export.nn.scheme import TENSORRT, placed
from ptq_export.pairs import Pairs
from ptq_export.pipeline.graphs import export_graph

__all__ = ["BOTH", "export", "simulation", "subject"]

BOTH = placed(TENSORRT, ["residual", "conv1-output"])


class TwoBlocks(nn.Module):
    """`[N, 1, 8, 8]` -> `[N, 1, 8, 8]`."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.time = nn.Conv2d(1, 16, 3, padding=1), nn.Linear(1, 8)
        self.first = ResnetBlock2D(in_channels=16, temb_channels=8, groups=4)
        self.second = ResnetBlock2D(in_channels=16, out_channels=32, temb_channels=8, groups=4)
        self.head = nn.Conv2d(32, 1, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        temb = self.time(timestep.float()[:, None] / 1000)
        return self.head(nn.functional.silu(self.second(self.first(self.stem(sample), temb), temb)))


@cache
def subject() -> Denoiser:
    module = TwoBlocks().eval().requires_grad_(False)
    return place_grids(Denoiser(module, NoiseSchedule(), (1, 8, 8), Source("two", "test", "0")), BOTH)


@cache
def simulation() -> nn.Module:
    """The quantised network; leave it as it is."""
    generator = torch.Generator().manual_seed(0)
    pairs = Pairs(torch.randn(4, 1, 8, 8, generator=generator), torch.tensor([0, 300, 600, 999]))
    store = UnitStore(load=lambda _: None, save=lambda _, __: None)
    method = Method(BOTH, "min-max", None, 0)
    return quantise(subject(), find_sites(subject(), BOTH), pairs, method, store, lambda _: None)


def export(in_float: Collection[str] = ()) -> ir.Model:
    """The graph of the simulation with these modules as the float network has them."""
    model = simulation()
    kept = {path: model.get_submodule(path) for path in in_float}
    for path in kept:
        model.set_submodule(path, subject().module.get_submodule(path))
    graph = export_graph(subject(), model)
    for path, module in kept.items():
        model.set_submodule(path, module)
    return graph
