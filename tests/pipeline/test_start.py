"""What is settled before calibration, each refusal with what it names, and that nothing is written by then."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ptq_export.calibrators.sites import Site, find_sites
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.errors import GateFailed, InputError
from ptq_export.nn.scheme import ORT_CPU, TENSORRT, placed
from ptq_export.pipeline import run
from ptq_export.pipeline.stages import open_subject
from ptq_export.pipeline.start import (
    note_own_operations,
    require_equal,
    require_grids,
    require_int8_layers,
    require_integer_form,
    require_size,
)


class Net(nn.Module):
    """stem, middle, head; the functional convolution of `own` beside them if asked for."""

    sample_shape = (1, 4, 4)

    def __init__(self, borrow: bool = False, own: bool = False) -> None:
        super().__init__()
        self.stem, self.middle, self.head = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 1, 1)
        self.own = nn.Parameter(torch.ones(4, 4, 1, 1)) if own else None
        self.borrow = borrow

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        x = self.middle(self.stem(sample))
        x = x if self.own is None else nn.functional.conv2d(x, self.own)
        x = nn.functional.conv2d(x, self.middle.weight) if self.borrow else x
        eps: Tensor = self.head(nn.functional.silu(x))
        return eps


def denoiser(module: nn.Module) -> Denoiser:
    module.eval().requires_grad_(False)
    return Denoiser(module, NoiseSchedule(), (1, 4, 4), Source("", "", ""))


def test_the_integer_form_of_a_plain_network_is_the_network() -> None:
    for net in (denoiser(Net()), tiny.denoiser(), tiny.conditional()):
        require_integer_form(net, find_sites(net, ORT_CPU))


def test_a_layer_whose_weight_is_read_elsewhere_is_named_and_can_be_kept_float() -> None:
    net = denoiser(Net(borrow=True))
    sites = find_sites(net, ORT_CPU)
    with pytest.raises(GateFailed, match=r"middle \(inf\)") as failed:
        require_integer_form(net, sites)
    assert failed.value.remedy.endswith("--keep-float 'middle'")
    require_integer_form(net, [replace(site, keep_float="asked for") for site in sites])


def test_convolutions_that_are_no_layers_are_counted_where_they_happen() -> None:
    assert note_own_operations(denoiser(Net())) == ""
    assert note_own_operations(denoiser(Net(own=True))).startswith("1 convolution or product that is no nn.Conv2d")
    assert note_own_operations(tiny.conditional()) == ""


def test_a_network_without_an_int8_layer_is_refused_with_every_reason() -> None:
    require_int8_layers([Site("a", "first layer"), Site("b")])
    with pytest.raises(InputError, match=r"(?s)a: first layer.*b: grouped"):
        require_int8_layers([Site("a", "first layer"), Site("b", "grouped")])


@pytest.mark.parametrize("placement", ["residual", "conv1-output"])
def test_a_placement_without_a_place_is_refused_and_leaves_nothing(placement: str, tmp_path: Path) -> None:
    """The layers of the tiny network that such grids would belong to are kept float."""
    layer = {"residual": "conv2", "conv1-output": "conv1"}[placement]
    asked = replace(tiny.options(tmp_path / "run"), target="trt-int8", placement=placement, keep_float=f"*.{layer}")
    with pytest.raises(InputError, match=f"--placement {placement}: no residual block .* has {layer} in int8"):
        run(asked)
    assert list(tmp_path.iterdir()) == []


def test_a_network_without_residual_blocks_has_no_place_for_their_grids() -> None:
    plain = denoiser(Net())
    scheme = placed(TENSORRT, ["residual"])
    assert open_subject(plain, split=False, scheme=scheme) is plain
    with pytest.raises(InputError, match="--placement residual: no residual block of this network"):
        require_grids(plain, find_sites(plain, scheme), scheme)


def test_blocks_that_are_no_longer_diffusers_own_are_refused_before_calibration(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As a later diffusers might have them."""
    today = ResnetBlock2D.forward
    monkeypatch.setattr(ResnetBlock2D, "forward", lambda self, x, temb: 2 * today(self, x, temb))
    given = tiny.denoiser()
    with pytest.raises(GateFailed, match="placing grids in residual blocks changes the network's output by"):
        open_subject(given, split=False, scheme=placed(TENSORRT, ["residual"]))


def test_a_network_that_no_run_can_hold_here_is_refused_with_its_size() -> None:
    with torch.device("meta"):
        large = denoiser(nn.Sequential(nn.Linear(10**6, 10**6, bias=False)))
        above_one_file = denoiser(nn.Sequential(nn.Linear(25_000, 25_000, bias=False)))
    with pytest.raises(InputError, match=r"1000000 million numbers would take 14,\d\d\d GiB") as refused:
        require_size(large)
    assert "this one can take networks of up to" in refused.value.remedy
    require_size(above_one_file)


def test_an_output_that_moved_is_no_equal_output() -> None:
    wanted = torch.ones(3, 1)
    require_equal(wanted, wanted * (1 + 9e-6), "folding")
    for found in (wanted * 1.0001, wanted * torch.nan, wanted[:2]):
        with pytest.raises(GateFailed, match="folding changes"):
            require_equal(wanted, found, "folding")


NETS = """
import torch
from torch import nn
from test_start import Net

class Broken(Net):
    def forward(self, sample, timestep):
        return super().forward(sample, timestep) + torch.where(timestep > 500, torch.nan, 0.0).view(-1, 1, 1, 1)

class Unbounded(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.GroupNorm(1, 4, eps=float("nan"))

    def forward(self, sample, timestep):
        return self.head(self.middle(self.norm(self.stem(sample))))

class Branch(Net):
    def forward(self, sample, timestep):
        eps = super().forward(sample, timestep)
        return eps * 0.5 if timestep.max() > 500 else eps
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Broken", "net makes NaN or infinite values at time-step 999"),
        ("Unbounded", "net.norm makes NaN or infinite values at time-step 0"),
        ("Branch", r"decides by the values of its inputs .*nets.py:\d+: return eps \* 0.5 if"),
    ],
)
def test_what_cannot_be_calibrated_is_refused_before_calibration(
    name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nets", raising=False)
    with pytest.raises(InputError, match=told):
        run(tiny.options(tmp_path / "out", f"nets:{name}"))
    assert not (tmp_path / "out" / "pairs.safetensors").exists()
