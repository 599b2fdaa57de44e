"""Layers quantised alone: their ranking, and the fewest that must stay float, on a net whose noise is known."""

import pytest
import torch
from torch import Tensor, nn

from ptq_export.benchmarks.held_out import HeldOut
from ptq_export.benchmarks.sensitivity import fewest_float, layer_noise, median_sqnr_db, with_layers
from ptq_export.denoiser import NoiseSchedule
from ptq_export.errors import InputError

NOISE_DB = {"first": 50.0, "second": 20.0, "third": 30.0}


class Scale(nn.Module):
    """x (1 + error)."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(1 + error), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Net(nn.Module):
    """Three scales in a row."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = Scale(), Scale(), Scale()

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        return self.third(self.second(self.first(sample)))


LAYERS = {name: {name: Scale(10 ** (-db / 20))} for name, db in NOISE_DB.items()}
HELD_OUT = HeldOut(
    NoiseSchedule(), 20, {t: torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(t)) for t in (900, 0)}
)


def test_layers_are_ranked_by_the_noise_that_each_makes_alone() -> None:
    shares: list[float] = []
    rows = layer_noise(Net(), LAYERS, HELD_OUT, shares.append)
    assert [row.name for row in rows] == ["second", "third", "first"]
    assert [row.sqnr_db for row in rows] == pytest.approx([20, 30, 50], abs=0.01)
    assert rows[0].share == pytest.approx(1 / 1.101, abs=1e-3)
    assert shares == [0.5, 1.0]


def test_network_and_its_copies_share_their_tensors() -> None:
    net = Net()
    copy = with_layers(net, LAYERS["second"])
    assert copy.first.weight.data_ptr() == net.first.weight.data_ptr()
    assert net.second.weight == 1 and copy.second is LAYERS["second"]["second"]


@pytest.mark.parametrize(("wanted_db", "kept"), [(5, 0), (25, 1), (45, 2)])
def test_as_few_as_reach_it_stay_float(wanted_db: float, kept: int) -> None:
    net, ranking = Net(), ["second", "third", "first"]
    names = fewest_float(net, LAYERS, ranking, wanted_db, HELD_OUT)
    assert names == ranking[:kept]
    others = {name: LAYERS[name][name] for name in LAYERS if name not in names}
    assert median_sqnr_db(net, with_layers(net, others), HELD_OUT) >= wanted_db


def test_more_than_the_quietest_layer_allows_is_refused() -> None:
    with pytest.raises(InputError, match=r"no layer can be int8 at 60 dB\none alone reaches 50\.0 dB"):
        fewest_float(Net(), LAYERS, ["second", "third", "first"], 60, HELD_OUT)


def test_what_comes_with_a_layer_is_part_of_its_noise_and_goes_with_it() -> None:
    """A quiet layer with a loud grid: in float both of them."""
    layers = {"first": LAYERS["first"], "second": {"second": Scale(1e-4), "third": Scale(10 ** (-20 / 20))}}
    rows = layer_noise(Net(), layers, HELD_OUT, lambda _: None)
    assert [(row.name, round(row.sqnr_db)) for row in rows] == [("second", 20), ("first", 50)]
    assert fewest_float(Net(), layers, ["second", "first"], 45, HELD_OUT) == ["second"]


class Offset(Scale):
    """x + 0.001: next to nothing, but where x itself is tiny."""

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.001


def test_a_layer_that_is_loud_at_one_time_step_alone_is_not_the_first_to_go() -> None:
    pairs = {t: size * torch.ones(4, 1, 4, 4) for t, size in ((900, 1.0), (450, 1.0), (0, 0.001))}
    layers = {"first": {"first": Offset()}, "second": {"second": Scale(0.01)}}
    rows = layer_noise(Net(), layers, HeldOut(NoiseSchedule(), 20, pairs), lambda _: None)
    assert [row.name for row in rows] == ["second", "first"]
    assert [row.sqnr_db for row in rows] == pytest.approx([40, 60], abs=0.1)
