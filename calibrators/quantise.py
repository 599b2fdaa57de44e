"""From a denoiser and calibration pairs to the quantised denoiser: the same module tree with integer layers and grids.

Units are quantised in execution order, each behind the quantised ones before it, and stored as they are finished:
an interrupted calibration goes on with the next unit. Every unit has a seed of its own, so a resumed run equals an
uninterrupted one.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ptq_export.calibrators.capture import Frontier, UnitData
from ptq_export.calibrators.grids import input_grid, output_grid, symmetric_grid, token_grid
from ptq_export.calibrators.observe import Observation, observe
from ptq_export.calibrators.reconstruct import Recipe, correct_bias, reconstruct
from ptq_export.calibrators.rounding import SoftGrid, SoftLayer, by_token
from ptq_export.calibrators.sites import Site, Unit, find_units
from ptq_export.denoiser import Denoiser
from ptq_export.device import exact_floats
from ptq_export.nn.grid_point import GridPoint, QuantisedGrid, grid_points, owner_of
from ptq_export.nn.layers import QuantisedLayer, quantised_layer
from ptq_export.nn.scheme import Scheme
from ptq_export.nn.share import share
from ptq_export.pairs import Pairs

__all__ = [
    "Method",
    "QuantisationState",
    "UnitStore",
    "integer_parts",
    "integer_state",
    "quantise",
    "quantised_grids",
    "quantised_modules",
    "restore",
    "soft_layer",
]

QuantisationState = dict[str, Tensor]


@dataclass(frozen=True)
class Method:
    """How to quantise: target scheme, the range metric, the recipe of learned rounding (None: nearest), seed."""

    scheme: Scheme
    metric: str
    recipe: Recipe | None
    seed: int

    def for_unit(self, index: int) -> "Method":
        """The same with a seed of the unit's own."""
        return replace(self, seed=self.seed * 1_000_003 + index)

    def for_site(self, site: Site) -> "Method":
        """The same with a step per token where the site asks for it."""
        return replace(self, scheme=replace(self.scheme, linear_input="token")) if site.by_token else self


@dataclass(frozen=True)
class UnitStore:
    """Where finished units are kept: `load(index)` gives the state of one or None, `save(index, state)` keeps it."""

    load: Callable[[int], QuantisationState | None]
    save: Callable[[int, QuantisationState], None]


@exact_floats()
def quantise(
    denoiser: Denoiser,
    sites: tuple[Site, ...],
    pairs: Pairs,
    method: Method,
    store: UnitStore,
    advance: Callable[[str], None],
) -> nn.Module:
    """The network with integer layers where `sites` says so; `advance(unit)` is called after each finished unit.

    All of it happens on the denoiser's device, where the result stays; `store` is given states on the CPU.
    """
    units = find_units(denoiser, sites)
    names = tuple(name for unit in units for name in (*unit.sites, *unit.grids))
    by_name = {site.name: site for site in sites}
    model = share(denoiser.module).requires_grad_(False)
    pairs = pairs.on(denoiser.device)
    observations: dict[str, Observation] = {}
    with Frontier(denoiser.module, model, names, [unit.name for unit in units], pairs) as frontier:
        for index, unit in enumerate(units):
            state = store.load(index)
            if state is None:
                observations = observations or observe(denoiser, pairs, names, method.scheme)
                wanted, found = frontier.take(unit.name)
                soft = {
                    name: soft_layer(model.get_submodule(name), observations[name], method.for_site(by_name[name]))
                    for name in unit.sites
                }
                grids = {name: _soft_grid(model.get_submodule(name), observations[name], method) for name in unit.grids}
                _quantise_unit(denoiser.module, model, unit, soft, grids, wanted, found, method.for_unit(index))
                store.save(index, integer_state(model, (*unit.sites, *unit.grids)))
            else:
                restore(model, state)
            advance(unit.name)
    return model


def _quantise_unit(
    reference: nn.Module,
    model: nn.Module,
    unit: Unit,
    soft: dict[str, SoftLayer],
    grids: dict[str, SoftGrid],
    wanted: UnitData,
    found: UnitData,
    method: Method,
) -> None:
    for name, part in (soft | grids).items():
        model.set_submodule(name, part)
    module = model.get_submodule(unit.name)
    if method.recipe is not None:
        reconstruct(module, list(soft.values()), found, method.recipe, method.seed)
        for layer in soft.values():
            layer.settle()
    inside = {name.removeprefix(unit.name).removeprefix("."): layer for name, layer in soft.items()}
    correct_bias(reference.get_submodule(unit.name), module, inside, wanted, found)
    for name, part in (soft | grids).items():
        model.set_submodule(name, part.harden())


def soft_layer(layer: nn.Module, seen: Observation, method: Method) -> SoftLayer:
    """The layer on the grids that fit what was seen, its rounding to be learned where the method has a recipe."""
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    codes, metric, weight = method.scheme.activations, method.metric, layer.weight.detach()
    if by_token(layer, method.scheme):
        grid = token_grid(codes, weight.device)
    else:
        grid = (
            symmetric_grid(seen.input, metric, codes) if codes.signed else input_grid(seen.input, metric, weight, codes)
        )
    output = output_grid(seen.output, metric, codes) if seen.output else None
    return SoftLayer(layer, grid, output, method.scheme, learn=method.recipe is not None)


def _soft_grid(point: nn.Module, seen: Observation, method: Method) -> SoftGrid:
    assert isinstance(point, GridPoint)
    return SoftGrid(point, symmetric_grid(seen.input, method.metric), method.scheme)


def quantised_modules(model: nn.Module) -> dict[str, QuantisedLayer]:
    """The integer layers by module path."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantisedLayer)}


def quantised_grids(model: nn.Module) -> dict[str, QuantisedGrid]:
    """The grids that are no layer's input, by module path."""
    return {name: point for name, point in grid_points(model).items() if isinstance(point, QuantisedGrid)}


def integer_parts(model: nn.Module) -> dict[str, dict[str, nn.Module]]:
    """What each integer layer brings with it: itself and the grids that belong to it, by module path."""
    parts: dict[str, dict[str, nn.Module]] = {name: {name: layer} for name, layer in quantised_modules(model).items()}
    for name, grid in quantised_grids(model).items():
        parts[owner_of(name, grid)][name] = grid
    return parts


def restore(model: nn.Module, state: QuantisationState) -> None:
    """Put the integer layers and grids of `state` (`<module path>.<buffer>`) in their places in `model`."""
    parts: dict[str, QuantisationState] = {}
    for key, value in state.items():
        name, buffer = key.rsplit(".", 1)
        parts.setdefault(name, {})[buffer] = value
    device = next(model.parameters()).device
    for name, buffers in parts.items():
        here = {key: value.to(device) for key, value in buffers.items()}
        model.set_submodule(name, _restored(model.get_submodule(name), here))


def _restored(found: nn.Module, state: QuantisationState) -> nn.Module:
    """What `state` makes of the grid point or the float layer that stands in its place."""
    if isinstance(found, GridPoint):
        return QuantisedGrid(state, found)
    found.get_parameter("weight")  # an AttributeError, where it is no layer
    return quantised_layer(state, found)


def integer_state(model: nn.Module, names: Iterable[str]) -> QuantisationState:
    """The buffers of the integer layers and grids called `names`, as `restore` takes them."""
    parts = {name: model.get_submodule(name) for name in names}
    return {f"{name}.{key}": value.cpu() for name, part in parts.items() for key, value in part.state_dict().items()}
