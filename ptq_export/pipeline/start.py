"""What is settled before calibration: the network can be exported, is finite, and its integer form is the network.

The last is proved on the simulation itself with its quantisers off: every layer that will be int8 stands there in its
integer form, on float weights. What differs then would differ in the engine too, and no proof behind it, which compares
the engine with the simulation, could tell.
"""

from collections.abc import Iterable

from torch import Tensor, nn

from ptq_export.benchmarks.sensitivity import with_layers
from ptq_export.calibrators.finite import require_finite_output
from ptq_export.calibrators.sites import Site
from ptq_export.denoiser import Denoiser
from ptq_export.errors import GateFailed, InputError
from ptq_export.machine import require_memory, total_memory_bytes
from ptq_export.nn.grid_point import CONV1_OUTPUT, RESIDUAL, grid_points, owner_of
from ptq_export.nn.layers import UnquantisedLayer
from ptq_export.nn.own_operations import own_operations
from ptq_export.nn.probe import EQUAL, difference, probe
from ptq_export.nn.scheme import Scheme
from ptq_export.pairs import Pairs

__all__ = [
    "COPIES",
    "note_own_operations",
    "require_equal",
    "require_grids",
    "require_int8_layers",
    "require_integer_form",
    "require_size",
]

COPIES = 4
"""Of the network in float32, that a run needs memory for: itself, its simulation, the int8 engine, and what building or
proving them takes besides. Seen: 13.2 GB for one of 3.5 GB (`benchmarks.large_net`) where its layers are proved one by
one in ONNX Runtime, and 12.8 where OpenVINO compiles the int8 engine."""


def require_size(denoiser: Denoiser) -> None:
    """Refuse a network of which a run cannot hold what it needs in this machine's memory.

    Raises:
        InputError: with its size.
    """
    numbers = sum(tensor.numel() for tensor in [*denoiser.module.parameters(), *denoiser.module.buffers()])
    most = total_memory_bytes() // (COPIES * 4e6)
    require_memory(
        COPIES * 4 * numbers,
        f"a network of {numbers / 1e6:.0f} million numbers",
        f"use a machine with more: this one can take networks of up to {most:.0f} million",
    )


def require_equal(wanted: Tensor, found: Tensor, what: str) -> None:
    """Raises GateFailed where `found` is not `wanted` up to float rounding; `what` names what was done in between."""
    off = difference(wanted, found)
    if not off <= EQUAL:
        raise GateFailed(
            f"{what} changes the network's output by {off:.1e} of its largest value (bound {EQUAL:.0e})",
            "please report this with the network's class; nothing was written",
        )


def note_own_operations(denoiser: Denoiser) -> str:
    """What to tell the user of convolutions that no module stands for; empty where there are none."""
    found = own_operations(denoiser)
    if not found:
        return ""
    shown = ", ".join(list(found)[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
    count = sum(found.values())
    what = "convolution or product that is no" if count == 1 else "convolutions or products that are no"
    verb = "stays" if count == 1 else "stay"
    return f"{count} {what} nn.Conv2d or nn.Linear {verb} float: in {shown or 'the network itself'}"


def require_int8_layers(sites: Iterable[Site]) -> None:
    """Refuse a network of which nothing would be int8.

    Raises:
        InputError: with the reason of every layer.
    """
    sites = list(sites)
    if any(not site.keep_float for site in sites):
        return
    reasons = [f"{site.name}: {site.keep_float}" for site in sites]
    told = "\n".join(f"  {reason}" for reason in reasons[:20]) or "  it has no nn.Conv2d and no nn.Linear"
    more = f"\n  and {len(reasons) - 20} more" if len(reasons) > 20 else ""
    raise InputError(f"no layer of this network can be int8:\n{told}{more}", "nothing was calibrated or written")


def require_grids(subject: Denoiser, sites: Iterable[Site], scheme: Scheme) -> None:
    """Refuse a placement that asks for grids where this network has no place for one.

    Raises:
        InputError: with the placement.
    """
    int8 = {site.name for site in sites if not site.keep_float}
    points = grid_points(subject.module)
    found = {point.place.placement for name, point in points.items() if owner_of(name, point) in int8}
    for place, asked in ((RESIDUAL, scheme.residual), (CONV1_OUTPUT, scheme.conv1_output)):
        if asked and place.placement not in found:
            cause = f"--placement {place.placement}: no residual block of this network has {place.layer} in int8"
            raise InputError(cause, "leave it out: there is nothing that it would change")


def require_integer_form(subject: Denoiser, sites: Iterable[Site]) -> None:
    """Prove that the network with every int8 layer in its integer form, quantisers off, is the network.

    Raises:
        InputError: the network itself makes NaN or infinite values; the layer is named.
        GateFailed: it is not; the layers that differ, each in the network alone, are named.
    """
    pairs = probe(subject)
    wanted = require_finite_output(subject, pairs.sample, pairs.timestep, **pairs.conditions)
    names = [site.name for site in sites if not site.keep_float]
    off = _difference(subject, names, wanted, pairs)
    if off <= EQUAL:
        return
    alone = {name: _difference(subject, [name], wanted, pairs) for name in names}
    culprits = {name: value for name, value in alone.items() if not value <= EQUAL}
    told = (
        ", ".join(f"{name} ({value:.1e})" for name, value in list(culprits.items())[:5]) or "only all of them together"
    )
    raise GateFailed(
        f"the integer form of this network differs from it by {off:.1e} of its largest value even without "
        f"quantisation (bound {EQUAL:.0e}): {told}",
        f"keep what differs in float: --keep-float '{','.join(culprits) or '*'}'",
    )


def _difference(subject: Denoiser, names: Iterable[str], wanted: Tensor, pairs: Pairs) -> float:
    forms = {name: UnquantisedLayer(_layer(subject.module, name)) for name in names}
    module = with_layers(subject.module, forms)
    try:
        found = pairs.on(subject.device).through(module)
    except Exception:  # what else reads the layer, its weight for instance, finds another class there
        return float("inf")
    return difference(wanted, found.detach().to(wanted.device))


def _layer(module: nn.Module, name: str) -> nn.Conv2d | nn.Linear:
    layer = module.get_submodule(name)
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    return layer
