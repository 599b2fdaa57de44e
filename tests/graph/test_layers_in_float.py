"""A graph with layers put back to float computes, with the same operators, what an export with them in float does."""

from collections import Counter
from functools import cache

import numpy as np
import onnx_ir as ir
import pytest
import tiny_quantised
from graph_models import noise, ops, run

from ptq_export.graph.passes.float_layers import FloatLayers
from ptq_export.nn.scheme import OPENVINO, ORT_CPU, Scheme

SCHEMES = pytest.mark.parametrize(
    "scheme", [ORT_CPU, pytest.param(OPENVINO, marks=pytest.mark.slow)], ids=lambda scheme: scheme.name
)
KINDS = (
    "unet.down_blocks.0.downsamplers.0.conv",
    "unet.mid_block.resnets.0.conv1",
    "unet.mid_block.attentions.0.to_k",  # to_q and to_v read the same grid
    "unet.mid_block.attentions.0.to_out.0",
    "unet.up_blocks.0.resnets.0.conv_shortcut",
)
COUNTED = ("QuantizeLinear", "DequantizeLinear", "Mul", "Conv")


@cache
def whole(scheme: Scheme) -> ir.Model:
    return tiny_quantised.export(scheme, ())


def floated(scheme: Scheme, names: tuple[str, ...]) -> ir.Model:
    graph = whole(scheme).clone()
    module = tiny_quantised.denoiser().module
    assert FloatLayers({name: module.get_submodule(name) for name in names})(graph).modified
    return graph


@SCHEMES
def test_it_computes_what_a_fresh_export_does(scheme: Scheme) -> None:
    graph, fresh = floated(scheme, KINDS), tiny_quantised.export(scheme, KINDS)
    sample, time = noise(2, 1, 8, 8), np.array([10, 700])
    np.testing.assert_allclose(run(graph, sample, time), run(fresh, sample, time), atol=1e-5)
    assert np.abs(run(graph, sample, time) - run(whole(scheme), sample, time)).max() > 1e-4
    found, wanted, before = (Counter(ops(model)) for model in (graph, fresh, whole(scheme)))
    assert [found[op] for op in COUNTED] == [wanted[op] for op in COUNTED]
    assert found["QuantizeLinear"] < before["QuantizeLinear"]


@SCHEMES
def test_every_layer_in_float_leaves_no_grid(scheme: Scheme) -> None:
    graph = floated(scheme, tiny_quantised.int8_layers(scheme))
    assert {"QuantizeLinear", "DequantizeLinear"}.isdisjoint(ops(graph))


def test_float_layers_and_strangers_are_left_alone() -> None:
    graph = whole(ORT_CPU).clone()
    module = tiny_quantised.denoiser().module
    layers = {"unet.conv_in": module.get_submodule("unet.conv_in"), "absent": module.get_submodule("unet.conv_in")}
    assert not FloatLayers(layers)(graph).modified
    assert ops(graph) == ops(whole(ORT_CPU))
