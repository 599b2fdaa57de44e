"""Where quantisers go: every conv and linear of a network in execution order, and why the others stay float.

Nothing is a hand-kept list of names: one traced call tells which layer reads the sample itself, which one makes eps,
and which depend on the time-step alone (those fold away in the graph).
"""

import difflib
import fnmatch
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from ptq_export.denoiser import Denoiser
from ptq_export.errors import InputError
from ptq_export.nn.calls import Call
from ptq_export.nn.grid_point import grid_points, owner_of
from ptq_export.nn.layers import UnquantisedLayer
from ptq_export.nn.probe import EQUAL, difference
from ptq_export.nn.scheme import Scheme

__all__ = ["Site", "Unit", "find_sites", "find_units", "hooked", "keep_float", "with_tokens"]

_Trace = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Site:
    """One conv or linear: its module path, and the reason to keep it float (empty: it becomes int8).

    `sees_sample` is false for what is computed from time-step and conditions alone: the graph folds or merges it.
    `by_token` says that this linear's input has a step per token, whatever the scheme has for the others.
    """

    name: str
    keep_float: str = ""
    sees_sample: bool = True
    by_token: bool = False


@dataclass(frozen=True)
class Unit:
    """What is reconstructed together: a residual block, an attention block, or one layer; with its int8 sites, and the
    grids inside it that are no layer's input."""

    name: str
    sites: tuple[str, ...]
    grids: tuple[str, ...] = ()


@contextmanager
def hooked(modules: Mapping[str, nn.Module], hook: Callable[[str, Any, Tensor], None]) -> Iterator[None]:
    """Call `hook(name, inputs, output)` after each named module's forward, while the block runs; `inputs` are the
    call's tensors, those by position first."""
    handles = [
        module.register_forward_hook(
            lambda called, args, kwargs, output, name=name: hook(
                name, Call.of(called, args, kwargs, output).tensors, output
            ),
            with_kwargs=True,
        )
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def find_sites(denoiser: Denoiser, scheme: Scheme) -> tuple[Site, ...]:
    """All conv / linear layers in the order of their first execution, as `scheme` can quantise them."""
    layers = {
        name: module for name, module in denoiser.module.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    }
    generator = torch.Generator().manual_seed(0)
    samples = torch.randn((2, 1, *denoiser.sample_shape), generator=generator)
    timestep = denoiser.schedule.timesteps([denoiser.schedule.num_train_timesteps // 2])
    traces: list[_Trace] = []
    results: list[Tensor] = []
    own: dict[str, str] = {}

    def record(trace: _Trace, name: str, inputs: Any, output: Tensor) -> None:
        trace.setdefault(name, (inputs[0], output))
        own[name] = own.get(name) or _without_form(layers[name], inputs[0], output)

    for sample in samples:
        trace: _Trace = {}
        with hooked(layers, partial(record, trace)):
            results.append(denoiser(sample, timestep, **denoiser.draw(1, 0)))
        traces.append(trace)
    found = (_site(name, layers[name], traces, samples[0], results[0], scheme) for name in traces[0])
    sites = tuple(replace(site, keep_float=site.keep_float or own[site.name]) for site in found)
    return _without_shortcuts(sites, denoiser.module) if scheme.float_shortcuts else sites


def _without_shortcuts(sites: tuple[Site, ...], module: nn.Module) -> tuple[Site, ...]:
    """The sites, what is int8 of the residual blocks' shortcuts float."""
    blocks = (name for name, child in module.named_modules() if isinstance(child, ResnetBlock2D))
    shortcuts = tuple(f"{name}.conv_shortcut" for name in blocks)
    reason = "shortcut of a residual block: asked for by float-shortcuts"
    inside = {it.name for it in sites if any(f"{it.name}.".startswith(f"{name}.") for name in shortcuts)}
    return tuple(replace(it, keep_float=it.keep_float or reason) if it.name in inside else it for it in sites)


def _without_form(layer: nn.Conv2d | nn.Linear, x: Tensor, y: Tensor) -> str:
    """Why a layer has no integer form that computes what it computes, or the empty string."""
    if x.ndim != 4 if isinstance(layer, nn.Conv2d) else x.ndim < 2:
        return f"reads {x.ndim} dimensions: without a batch it has no integer form"
    if difference(y, UnquantisedLayer(layer)(x)) > EQUAL:
        return (
            f"{type(layer).__name__} computes something else than its weight's product, and no constant stands for it"
        )
    return ""


def _site(
    name: str, layer: nn.Conv2d | nn.Linear, traces: list[_Trace], sample: Tensor, output: Tensor, scheme: Scheme
) -> Site:
    (x, y), (other_x, _) = (trace[name] for trace in traces)
    if x.shape == other_x.shape and torch.equal(x, other_x):
        return Site(name, "depends on time-step and conditions alone", sees_sample=False)
    return Site(name, _reason(layer, x, y, sample, output) or _too_small(layer, scheme.min_channels))


def _reason(layer: nn.Module, x: Tensor, y: Tensor, sample: Tensor, output: Tensor) -> str:
    if _holds(x, sample):
        return "first layer: reads the noisy sample itself"
    if y.numel() == output.numel() and torch.equal(y.flatten(), output.flatten()):
        return "last layer: makes eps itself"
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        return "grouped convolution: its channels do not share their inputs"
    return ""


def _holds(x: Tensor, sample: Tensor) -> bool:
    """Whether the channels of `sample` are the first or the last of `x`, beside an image that is a condition, say."""
    rows, wanted = x.flatten(2) if x.ndim > 2 else x[..., None], sample.flatten(2)
    channels = wanted.shape[1]
    if rows.shape[1] < channels or rows.shape[2] != wanted.shape[2]:
        return False
    return torch.equal(rows[:, :channels], wanted) or torch.equal(rows[:, -channels:], wanted)


def _too_small(layer: nn.Conv2d | nn.Linear, min_channels: int) -> str:
    rows, columns = layer.weight.shape[:2]
    small = min(rows, columns)
    return f"{small} channels: integer kernels want {min_channels} or more" if small < min_channels else ""


def keep_float(sites: tuple[Site, ...], patterns: Iterable[str], reason: str) -> tuple[Site, ...]:
    """`sites` with the int8 ones whose name matches one of `patterns` (`*.attentions.*`) float, for `reason`.

    Raises:
        InputError: a pattern that matches no int8 layer.
    """
    patterns = tuple(patterns)
    names = [site.name for site in sites if not site.keep_float]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.3) or names[:3]
            raise InputError(f"no int8 layer is called {pattern!r}", f"for instance {', '.join(near)}")
    asked = {name for pattern in patterns for name in fnmatch.filter(names, pattern)}
    return tuple(replace(site, keep_float=reason) if site.name in asked else site for site in sites)


def with_tokens(sites: tuple[Site, ...], names: Collection[str]) -> tuple[Site, ...]:
    """`sites` with a step per token in the linears called `names`."""
    return tuple(replace(site, by_token=site.by_token or site.name in names) for site in sites)


def find_units(denoiser: Denoiser, sites: tuple[Site, ...]) -> tuple[Unit, ...]:
    """Group the int8 sites into reconstruction units, in execution order (BRECQ, arXiv:2102.05426, section 3.2)."""
    module, kinds = denoiser.module, (ResnetBlock2D, Attention, *denoiser.blocks)
    blocks = [name for name, child in module.named_modules() if isinstance(child, kinds)]
    members: dict[str, list[str]] = {}
    for site in sites:
        if not site.keep_float:
            unit = next((block for block in blocks if site.name.startswith(f"{block}.")), site.name)
            members.setdefault(unit, []).append(site.name)
    owners = {name: owner_of(name, point) for name, point in grid_points(module).items()}
    return tuple(
        Unit(name, tuple(names), tuple(grid for grid, owner in owners.items() if owner in names))
        for name, names in members.items()
    )
