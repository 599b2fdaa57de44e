"""A step per token: what it computes, and what it is for."""

from dataclasses import replace

import numpy as np
import onnx_ir as ir
import pytest
import torch
from exported_net import exported
from torch import Tensor, nn

from ptq_export.calibrators.grids import token_grid
from ptq_export.calibrators.rounding import SoftLayer
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.errors import InputError
from ptq_export.nn.code_type import INT8, UINT8, CodeType
from ptq_export.nn.layers import Grid, TokenLinear
from ptq_export.nn.scheme import OPENVINO, ORT_CPU, TENSORRT, Scheme

SCHEMES = pytest.mark.parametrize("scheme", [ORT_CPU, OPENVINO, TENSORRT], ids=lambda scheme: scheme.name)


def linear(inputs: int = 48, outputs: int = 64) -> nn.Linear:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Linear(inputs, outputs).requires_grad_(False)


def tokens(rows: int = 40, inputs: int = 48) -> Tensor:
    """`[2, rows, inputs]`; every tenth token is fifty times as large as the others."""
    x = torch.randn(2, rows, inputs, generator=torch.Generator().manual_seed(1))
    x[:, ::10] *= 50
    return x


def by_token(layer: nn.Linear, scheme: Scheme) -> TokenLinear:
    scheme = replace(scheme, linear_input="token")
    grid = token_grid(scheme.activations, torch.device("cpu"))
    quantised = SoftLayer(layer, grid, None, scheme, learn=False).harden()
    assert isinstance(quantised, TokenLinear)
    return quantised


def sqnr_db(wanted: Tensor, found: Tensor) -> float:
    """Of the tokens that are no outliers."""
    usual = [row for row in range(wanted.shape[1]) if row % 10]
    return float(10 * torch.log10(wanted[:, usual].square().sum() / (wanted - found)[:, usual].square().sum()))


@SCHEMES
def test_it_is_the_product_of_integers_by_its_formula(scheme: Scheme) -> None:
    x, layer = tokens(), linear()
    quantised = by_token(layer, scheme)
    largest = np.abs(x.numpy()).max(-1, keepdims=True)
    step = np.float64(quantised.input_scale)
    codes = np.clip(np.rint(x.double().numpy() / largest / step), -127, 127)
    weights = quantised.weight_codes.double().numpy() * quantised.weight_scale.double().numpy()[:, None]
    wanted = codes @ weights.T * step * largest + quantised.token_bias.double().numpy()
    found = quantised(x).double().numpy()
    assert abs(step - 1 / 127) < 1e-5
    assert np.abs(found - wanted).max() < 2e-2 * np.abs(wanted).max() and np.median(np.abs(found - wanted)) < 1e-4


@SCHEMES
def test_outliers_of_other_tokens_cost_nothing(scheme: Scheme) -> None:
    x, layer = tokens(), linear()
    largest = x.abs().max()
    grid = Grid(largest / 127, torch.tensor(scheme.activations.middle, dtype=scheme.activations.dtype))
    static = SoftLayer(layer, grid, None, scheme, learn=False).harden()
    one_step, a_step_each = (sqnr_db(layer(x), module(x)) for module in (static, by_token(layer, scheme)))
    assert a_step_each > 32 and a_step_each > one_step + 20


def test_the_figures_of_docs_tuning() -> None:
    """The median over the tokens of each one's SQNR."""
    layer = linear(1152, 4608)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1024, 1152, generator=generator)
    x[:, torch.randperm(1024, generator=generator)[:10]] *= 100
    grid = Grid(x.abs().max() / 127, torch.tensor(128, dtype=torch.uint8))
    static = SoftLayer(layer, grid, None, ORT_CPU, learn=False).harden()

    def median_db(module: nn.Module) -> float:
        wanted = layer(x)
        return float((10 * torch.log10(wanted.square().sum(-1) / (wanted - module(x)).square().sum(-1))).median())

    assert median_db(by_token(layer, ORT_CPU)) == pytest.approx(39.2, abs=0.2)
    assert median_db(static) == pytest.approx(1.9, abs=0.5)


def test_a_token_of_zeros_is_the_bias() -> None:
    layer = linear()
    torch.testing.assert_close(by_token(layer, ORT_CPU)(torch.zeros(1, 3, 48)), layer.bias.expand(1, 3, 64))


class Net(nn.Module):
    """A linear over the rows of an image `[N, 4, 12, 48]`."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return self.layer(sample.flatten(1, 2)).unflatten(1, (4, 12)) + 0 * timestep[:, None, None, None]


@SCHEMES
def test_the_engine_computes_the_same(scheme: Scheme) -> None:
    net = Net(by_token(linear(), scheme)).eval()
    sample = tokens(48).unflatten(1, (4, 12))
    graph = exported(net, (4, 12, 48))
    feeds = {"sample": sample.numpy(), "timestep": np.array([1, 2])}
    found = torch.from_numpy(OrtEngine.run_graph(ir.to_proto(graph).SerializeToString(), feeds))
    wanted = net(sample, torch.tensor([1, 2]))
    assert ((found - wanted).abs().amax() / wanted.abs().amax()) < 1e-4
    assert {node.op_type for node in graph.graph} >= {"QuantizeLinear", "DequantizeLinear", "Gemm", "ReduceMax"}


@pytest.mark.parametrize(("codes", "ends", "middle"), [(INT8, (-128, 127), 0), (UINT8, (0, 255), 128)])
def test_code_types_know_their_ends(codes: CodeType, ends: tuple[int, int], middle: int) -> None:
    assert (codes.low, codes.high) == ends and (codes.middle, codes.reach) == (middle, 127)
    assert torch.iinfo(codes.dtype).min == codes.low and torch.iinfo(codes.dtype).max == codes.high


def test_codes_that_no_engine_has_a_kernel_for_are_refused_by_name() -> None:
    with pytest.raises(InputError, match="no engine here has a kernel for int4"):
        _ = CodeType("int4", 4, signed=True).dtype
