"""The bounds of parity: what passes, what fails, and that the failing layer or time-step is named."""

import copy
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from exported_net import exported
from torch import Tensor, nn

from ptq_export.benchmarks.fidelity import Curve
from ptq_export.benchmarks.parity import LocalParity, global_parity, local_parity
from ptq_export.engines.ort.engine import OrtEngine
from ptq_export.graph.passes.name_layers import NameLayers
from ptq_export.nn.layers import Grid, LayerCodes, layer_state, quantised_layer
from ptq_export.pairs import Pairs

STEP = 0.125
"""The output grid of `block.conv`."""
SAMPLE = torch.randn(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
Disturb = Callable[[Any], None]


class Block(nn.Module):
    """x + conv(x), the convolution with integers."""

    def __init__(self) -> None:
        super().__init__()
        grid = Grid(torch.tensor(0.03), torch.tensor(128, dtype=torch.uint8))
        output = Grid(torch.full((1,), STEP), torch.full((1,), 128).byte())
        codes = torch.randint(-60, 60, (1, 1, 3, 3), generator=torch.Generator().manual_seed(0)).to(torch.int8)
        state = layer_state(LayerCodes(codes, torch.tensor([0.01]), torch.zeros(1), grid, output))
        self.conv = quantised_layer(state, nn.Conv2d(1, 1, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


class Net(nn.Module):
    """One block around a sigmoid, so that its input is an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.block = Block()

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return torch.sigmoid(self.block(torch.tanh(sample))) + 0.0 * timestep[:, None, None, None]


@lru_cache
def net_and_graph() -> tuple[nn.Module, ir.Model]:
    net = Net().eval()
    graph = exported(net, (1, 16, 16))
    NameLayers()(graph)
    return net, graph


class Around(nn.Module):
    """A block in full precision from which the integer one is `db` away."""

    def __init__(self, block: nn.Module, db: float) -> None:
        super().__init__()
        self.block, self.conv, self.db = block, block.conv, db

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) / (1 + 10 ** (-self.db / 20))


def parity(disturb: Disturb, name: str, float_db: float = 60) -> LocalParity:
    """The verdict on module `name` when `disturb` has changed what the engine answers, in place."""

    def disturbed(model: bytes, inputs: Mapping[str, Any]) -> Any:
        answer = OrtEngine.run_graph(model, inputs).copy()
        disturb(answer.reshape(-1))
        return answer

    net, graph = net_and_graph()
    reference = copy.deepcopy(net)
    reference.block = Around(net.block, float_db)
    [row] = local_parity(reference, net, graph, [name], disturbed, Pairs(SAMPLE, torch.tensor([1, 2])))
    return row


def add(value: float, count: int) -> Disturb:
    """Move the first `count` of the 512 elements by `value`."""

    def disturb(flat: Any) -> None:
        flat[:count] += value

    return disturb


def test_layer_as_simulated_passes() -> None:
    row = parity(add(0.0, 0), "block.conv")
    assert (row.block, row.kind, row.ok) == ("block.conv", "layer", True)
    assert (row.max_steps, row.share_off) == (0, 0)
    assert row.to_json()["sqnr_db"] > 100


def test_a_layer_whose_input_has_sizes_that_the_graph_does_not_tell_is_run_with_those_it_meets() -> None:
    net, graph = net_and_graph()
    told = graph.clone()
    read = next(node for node in told.graph if node.op_type == "Tanh").outputs[0]
    read.shape = ir.Shape([None, 1, None, None])
    pairs = Pairs(SAMPLE, torch.tensor([1, 2]))
    [row] = local_parity(net, net, told, ["block.conv"], OrtEngine.run_graph, pairs)
    assert row.ok and row.max_steps == 0


def test_layer_off_by_one_step_on_less_than_a_hundredth_passes() -> None:
    row = parity(add(STEP, 5), "block.conv")
    assert (row.max_steps, row.share_off, row.ok) == (1, 5 / 512, True)


def test_layer_off_by_one_step_on_more_than_a_hundredth_fails() -> None:
    row = parity(add(-STEP, 6), "block.conv")
    assert (row.block, row.max_steps, row.share_off, row.ok) == ("block.conv", 1, 6 / 512, False)


def test_layer_off_by_two_steps_at_one_element_fails() -> None:
    row = parity(add(2 * STEP, 1), "block.conv")
    assert (row.block, row.max_steps, row.ok) == ("block.conv", 2, False)


@pytest.mark.parametrize(("db", "ok"), [(51, True), (49, False)])
def test_block_needs_50_db(db: float, ok: bool) -> None:
    def disturb(flat: Any) -> None:
        flat *= 1 + 10 ** (-db / 20)

    row = parity(disturb, "block")
    assert (row.block, row.kind, row.ok) == ("block", "block", ok)
    assert row.sqnr_db == pytest.approx(db, abs=0.2)


@pytest.mark.parametrize(("db", "ok"), [(46, True), (44, False)])
def test_block_of_30_db_needs_15_more(db: float, ok: bool) -> None:
    def disturb(flat: Any) -> None:
        flat *= 1 + 10 ** (-db / 20)

    row = parity(disturb, "block", float_db=30)
    assert (row.ok, row.bound_db) == (ok, pytest.approx(45, abs=0.1))


def test_nan_from_the_engine_fails() -> None:
    for name in ("block", "block.conv"):
        assert not parity(add(np.nan, 1), name).ok


def curve(noise: Tensor) -> Curve:
    """A curve with a signal of 1 per pair at as many time-steps as `noise` `[T, N]` has rows."""
    zeros = (0.0,) * len(noise)
    return Curve(tuple(range(len(noise))), torch.ones_like(noise), noise, zeros, zeros)


def noise(db: float, pairs: int, spread: float = 0.0) -> Tensor:
    """Noise energies `[1, N]` of an SQNR of `db`; every other pair is above or below it by the share `spread`."""
    sign = torch.tensor([1.0, -1.0]).repeat(pairs // 2).double()
    return (10 ** (-db / 10) * (1 + spread * sign))[None]


@pytest.mark.parametrize("gap_db", [0.49, -0.49, 0.51, -0.51])
def test_gap_of_half_a_decibel_is_allowed_over_64_pairs(gap_db: float) -> None:
    [row] = global_parity(curve(noise(30, 64)), curve(noise(30 + gap_db, 64, 0.5)))
    assert (row.ok, row.bound_db) == (abs(gap_db) < 0.5, 0.5)
    assert (row.simulation_db, row.engine_db) == pytest.approx((30, 30 + gap_db), abs=1e-3)


def test_bound_is_widened_by_the_measured_spread_where_there_are_fewer_pairs() -> None:
    [wide] = global_parity(curve(noise(30, 4)), curve(noise(29, 4, 0.5)))
    [narrow] = global_parity(curve(noise(30, 4)), curve(noise(29, 4)))
    assert wide.ok and 1 < wide.bound_db < 6
    assert (narrow.ok, narrow.bound_db) == (False, 0.5)


def test_time_step_with_the_gap_is_the_one_that_fails() -> None:
    simulation = noise(30, 64).repeat(3, 1)
    engine = torch.cat([noise(30, 64), noise(27, 64), noise(30, 64)])
    assert [row.timestep for row in global_parity(curve(simulation), curve(engine)) if not row.ok] == [1]


@pytest.mark.parametrize(("simulation_db", "engine_db", "ok"), [(140, 91, True), (140, 89, False), (89, 140, False)])
def test_errors_that_float32_makes_itself_are_equal(simulation_db: float, engine_db: float, ok: bool) -> None:
    [row] = global_parity(curve(noise(simulation_db, 64)), curve(noise(engine_db, 64)))
    assert row.ok == ok


def test_a_network_whose_output_is_zero_is_equal_to_itself() -> None:
    zeros = torch.zeros(1, 64).double()
    nothing = Curve((0,), zeros, zeros, (0.0,), (0.0,))
    [row] = global_parity(nothing, nothing)
    assert (row.ok, row.simulation_db, row.engine_db) == (True, 150.0, 150.0)
