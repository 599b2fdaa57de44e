"""Places for grids in residual blocks: until one is quantised, the block is diffusers' own, bit for bit."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from two_levels import two_levels

from ptq_export.calibrators.sites import find_sites, find_units
from ptq_export.nn.grid_point import CONV1_OUTPUT, RESIDUAL, GridPoint, QuantisedGrid, grid_points, owner_of
from ptq_export.nn.gridded_block import GriddedResnetBlock2D, place_grids
from ptq_export.nn.scheme import TENSORRT, placed

BOTH = placed(TENSORRT, ["residual", "conv1-output"])
BLOCKS: dict[str, dict[str, Any]] = {
    "identity": {},
    "shortcut": {"out_channels": 32},
    "adaptive norm": {"time_embedding_norm": "scale_shift"},
    "no time": {"temb_channels": None},
    "time as it is": {"skip_time_act": True},
    "up": {"up": True},
    "down": {"down": True, "out_channels": 32},
    "FIR": {"up": True, "kernel": "fir"},
    "scaled": {"output_scale_factor": 1.5},
}


@pytest.mark.parametrize("architecture", BLOCKS.values(), ids=BLOCKS)
def test_a_block_with_places_for_grids_is_diffusers_own(architecture: dict[str, Any]) -> None:
    torch.manual_seed(0)
    block = ResnetBlock2D(**{"in_channels": 16, "temb_channels": 8, "groups": 4} | architecture).eval()
    x, temb = torch.randn(2, 16, 8, 8), torch.randn(2, 8) if architecture.get("temb_channels", 8) else None
    with torch.no_grad():
        wanted = block(x, temb)
        assert torch.equal(GriddedResnetBlock2D(block, (RESIDUAL, CONV1_OUTPUT))(x, temb), wanted)


def test_layers_keep_their_names_and_the_given_network_its_blocks() -> None:
    given = two_levels()
    before = [name for name, _ in given.module.named_parameters()]
    after = place_grids(given, BOTH)
    assert [name for name, _ in after.module.named_parameters()] == before
    assert grid_points(given.module) == {}
    sites = find_sites(given, TENSORRT)
    assert find_sites(after, BOTH) == sites
    units = {unit.name: unit for unit in find_units(after, sites)}
    middle = units["unet.mid_block.resnets.0"]
    assert middle.grids == (f"{middle.name}.conv1_grid", f"{middle.name}.residual_grid")
    assert [replace(unit, grids=()) for unit in units.values()] == list(find_units(given, sites))


@pytest.mark.parametrize("placement", ["residual", "conv1-output"])
def test_a_placement_has_its_own_grids_alone_each_beside_a_layer_of_its_block(placement: str) -> None:
    points = grid_points(place_grids(two_levels(), placed(TENSORRT, [placement])).module)
    layer = {"residual": "conv2", "conv1-output": "conv1"}[placement]
    assert len(points) == 8, "one in each residual block"
    assert {point.place.placement for point in points.values()} == {placement}
    for name, point in points.items():
        assert owner_of(name, point) == f"{name.rpartition('.')[0]}.{layer}"


def test_without_such_a_placement_the_network_stays_as_it_is() -> None:
    given = two_levels()
    assert place_grids(given, placed(TENSORRT, ["float-shortcuts", "before-resize"])) is given


class Other(ResnetBlock2D):
    """A block whose `forward` may be anything."""


def test_blocks_with_another_forward_are_left_alone() -> None:
    given = two_levels()
    changed, patched = (given.module.get_submodule(f"unet.mid_block.resnets.{index}") for index in (0, 1))
    changed.__class__ = Other
    patched.forward = lambda x, temb: x
    names = grid_points(place_grids(given, BOTH).module)
    assert len(names) == 12 and not any(name.startswith("unet.mid_block.resnets.") for name in names)


def test_a_grid_rounds_half_to_even_and_clips_to_eight_bits() -> None:
    grid = QuantisedGrid({"scale": torch.tensor(0.5)}, GridPoint(RESIDUAL))
    x = torch.tensor([0.2, 0.3, 0.75, 1.25, -0.3, 70.0, -70.0])
    assert grid(x).tolist() == [0.0, 0.5, 1.0, 1.0, -0.5, 63.5, -64.0]
    assert list(grid.state_dict()) == ["scale"], "the zero point is 0 always"
