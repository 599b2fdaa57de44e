"""A U-Net of two levels with attention, quantised for a scheme with some layers in float, as a graph."""

from functools import cache

import onnx_ir as ir
import torch
from diffusers import UNet2DModel

from ptq_export.calibrators.quantise import Method, UnitStore, quantise, quantised_modules
from ptq_export.calibrators.sites import find_sites
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source, UNetEps
from ptq_export.nn.scheme import Scheme
from ptq_export.pairs import Pairs
from ptq_export.pipeline.graphs import export_graph

__all__ = ["denoiser", "export", "int8_layers"]


@cache
def denoiser() -> Denoiser:
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        block_out_channels=(16, 32),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
        down_block_types=("DownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "UpBlock2D"),
    )
    module = UNetEps(unet).eval().requires_grad_(False)
    return Denoiser(module, NoiseSchedule(), (1, 8, 8), Source("tiny", "test", "0"))


def int8_layers(scheme: Scheme) -> tuple[str, ...]:
    return tuple(site.name for site in find_sites(denoiser(), scheme) if not site.keep_float)


def export(scheme: Scheme, in_float: tuple[str, ...]) -> ir.Model:
    """The codes do not depend on `in_float`: the layers are taken out of one and the same quantised network."""
    model = _quantised(scheme)
    reference = denoiser().module
    layers = quantised_modules(model)
    for name in in_float:
        model.set_submodule(name, reference.get_submodule(name))
    graph = export_graph(denoiser(), model)
    for name in in_float:
        model.set_submodule(name, layers[name])
    return graph


@cache
def _quantised(scheme: Scheme) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(0)
    pairs = Pairs(torch.randn(4, 1, 8, 8, generator=generator), torch.tensor([0, 300, 600, 999]))
    sites = find_sites(denoiser(), scheme)
    store = UnitStore(load=lambda _: None, save=lambda _, __: None)
    return quantise(denoiser(), sites, pairs, Method(scheme, "min-max", None, 0), store, lambda _: None)
