"""Which layers become integers, why the others stay float, and what is reconstructed together."""

import re
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from calibrators_toys import denoiser_of, plain_denoiser, unet_denoiser
from torch import Tensor, nn

from ptq_export.calibrators.sites import Site, Unit, find_sites, find_units, hooked, keep_float
from ptq_export.errors import InputError
from ptq_export.nn.scheme import ORT_CPU, placed
from ptq_export.nn.split_shortcut import split_shortcuts


def test_a_unet_keeps_first_last_and_time_layers_float() -> None:
    reasons = {site.name: site.keep_float for site in find_sites(unet_denoiser(), ORT_CPU)}
    assert reasons.pop("unet.conv_in").startswith("first layer")
    assert reasons.pop("unet.conv_out").startswith("last layer")
    time_only = {name for name in reasons if "time_emb" in name}
    assert len(time_only) == 2 + 8
    assert all(reasons.pop(name).startswith("depends on time-step and conditions alone") for name in time_only)
    assert set(reasons.values()) == {""} and len(reasons) > 30


def test_the_shortcuts_of_residual_blocks_are_float_where_the_scheme_says_so() -> None:
    denoiser = unet_denoiser()
    for subject in (denoiser, split_shortcuts(denoiser)):
        usual, chosen = (find_sites(subject, scheme) for scheme in (ORT_CPU, placed(ORT_CPU, ["float-shortcuts"])))
        changed = {site.name: site.keep_float for site in set(chosen) - set(usual)}
        assert changed and all(".conv_shortcut" in name and "float-shortcuts" in why for name, why in changed.items())
        assert [site.name for site in chosen if ".conv_shortcut" in site.name and not site.keep_float] == []


def test_every_conv_and_linear_is_a_site_in_execution_order() -> None:
    denoiser = unet_denoiser()
    layers = {name for name, module in denoiser.module.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    names = [site.name for site in find_sites(denoiser, ORT_CPU)]
    assert set(names) == layers and len(names) == len(layers)
    order = [names.index(f"unet.{part}") for part in ("conv_in", "mid_block.resnets.0.conv1", "conv_out")]
    assert order == sorted(order)
    assert names.index("unet.mid_block.resnets.1.conv1") < names.index("unet.up_blocks.0.resnets.0.conv1")


def test_a_plain_network_is_read_by_its_trace() -> None:
    assert find_sites(plain_denoiser(), ORT_CPU) == (
        Site("stem", "first layer: reads the noisy sample itself"),
        Site("shift", "depends on time-step and conditions alone", sees_sample=False),
        Site("body.0"),
        Site("body.2"),
        Site("mix"),
        Site("head", "last layer: makes eps itself"),
    )


class Around(nn.Module):
    """eps = head(layer(stem(x)))."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.stem, self.layer, self.head, self.unused = nn.Conv2d(1, 4, 1), layer, nn.Conv2d(4, 1, 1), nn.Linear(1, 1)

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        eps: Tensor = self.head(self.layer(self.stem(sample)))
        return eps


class Tripled(nn.Conv2d):
    """A convolution with a gain of its own that baking was not asked for."""

    def forward(self, input: Tensor) -> Tensor:
        return 3 * super().forward(input)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (lambda: nn.Conv2d(4, 4, 3, padding=1), ""),
        (lambda: nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), ""),
        (lambda: Tripled(4, 4, 1), "Tripled computes something else"),
        (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), "grouped convolution"),
    ],
    ids=["plain", "circular", "own forward", "depthwise"],
)
def test_convolutions_without_an_integer_form_stay_float(layer: Callable[[], nn.Module], reason: str) -> None:
    sites = {site.name: site.keep_float for site in find_sites(denoiser_of(Around(layer()), (1, 4, 4)), ORT_CPU)}
    assert list(sites) == ["stem", "layer", "head"]
    assert sites["layer"].startswith(reason) and bool(sites["layer"]) == bool(reason)


class Called(Around):
    """The same, its layers called by keyword."""

    def forward(self, sample: Tensor, timestep: Tensor) -> Tensor:
        eps: Tensor = self.head(input=self.layer(input=self.stem(input=sample)))
        return eps


def test_layers_called_by_keyword_are_found_as_the_others() -> None:
    sites, called = (find_sites(denoiser_of(kind(nn.Conv2d(4, 4, 1)), (1, 4, 4)), ORT_CPU) for kind in (Around, Called))
    assert called == sites and not called[1].keep_float


def test_finding_sites_leaves_no_hook_and_no_global_random_state_behind() -> None:
    denoiser = plain_denoiser()
    state = torch.get_rng_state()
    find_sites(denoiser, ORT_CPU)
    assert torch.equal(torch.get_rng_state(), state)
    assert not any(module._forward_hooks for module in denoiser.module.modules())


def test_hooks_are_gone_even_after_an_error() -> None:
    layer = nn.Linear(2, 2)
    with pytest.raises(RuntimeError, match="stop"), hooked({"x": layer}, lambda *_: None):
        raise RuntimeError("stop")
    assert not layer._forward_hooks


def test_units_are_blocks_or_single_layers_in_execution_order() -> None:
    denoiser = unet_denoiser()
    units = find_units(denoiser, find_sites(denoiser, ORT_CPU))
    names = [unit.name.removeprefix("unet.") for unit in units]
    assert names[:5] == [
        "down_blocks.0.resnets.0",
        "down_blocks.0.downsamplers.0.conv",
        "down_blocks.1.resnets.0",
        "down_blocks.1.attentions.0",
        "mid_block.resnets.0",
    ]
    by_name = {unit.name.removeprefix("unet."): unit.sites for unit in units}
    attention = [site.rpartition("attentions.0.")[2] for site in by_name["mid_block.attentions.0"]]
    assert attention == ["to_q", "to_k", "to_v", "to_out.0"]
    block = [site.rpartition(".")[2] for site in by_name["down_blocks.1.resnets.0"]]
    assert block == ["conv1", "conv2", "conv_shortcut"]


def test_every_integer_site_is_in_exactly_one_unit() -> None:
    denoiser = unet_denoiser()
    sites = find_sites(denoiser, ORT_CPU)
    grouped = [name for unit in find_units(denoiser, sites) for name in unit.sites]
    assert sorted(grouped) == sorted(site.name for site in sites if not site.keep_float)


def test_layers_outside_known_blocks_are_units_of_their_own() -> None:
    denoiser = plain_denoiser()
    assert find_units(denoiser, find_sites(denoiser, ORT_CPU)) == (
        Unit("body.0", ("body.0",)),
        Unit("body.2", ("body.2",)),
        Unit("mix", ("mix",)),
    )


def test_a_denoiser_names_the_blocks_of_its_own_that_are_units() -> None:
    denoiser = replace(plain_denoiser(), blocks=(nn.Sequential,))
    assert find_units(denoiser, find_sites(denoiser, ORT_CPU)) == (
        Unit("body", ("body.0", "body.2")),
        Unit("mix", ("mix",)),
    )


def test_layers_are_kept_float_by_pattern_and_keep_their_own_reasons() -> None:
    sites = keep_float(find_sites(plain_denoiser(), ORT_CPU), ["body.*"], "asked for")
    assert {site.name: site.keep_float for site in sites if site.name.startswith("body")} == {
        "body.0": "asked for",
        "body.2": "asked for",
    }
    assert [site for site in sites if not site.name.startswith("body")] == [
        site for site in find_sites(plain_denoiser(), ORT_CPU) if not site.name.startswith("body")
    ]


@pytest.mark.parametrize("pattern", ["bodi.*", "stem", ""])
def test_a_pattern_without_an_int8_layer_is_refused(pattern: str) -> None:
    with pytest.raises(InputError, match=f"no int8 layer is called '{re.escape(pattern)}'\nfor instance"):
        keep_float(find_sites(plain_denoiser(), ORT_CPU), [pattern], "asked for")


def test_an_engine_s_least_width_keeps_narrow_layers_float() -> None:
    wide = {site.name for site in find_sites(unet_denoiser(), ORT_CPU) if not site.keep_float}
    narrow = {site.name: site.keep_float for site in find_sites(unet_denoiser(), replace(ORT_CPU, min_channels=1000))}
    assert wide and all("channels: integer kernels want 1000 or more" in narrow[name] for name in wide)
