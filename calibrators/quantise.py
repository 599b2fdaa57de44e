"""From a denoiser and calibration pairs to the quantised denoiser: the same module tree with integer layers.

Units are quantised in execution order, each behind the quantised ones before it, and stored as they are finished:
an interrupted calibration goes on with the next unit. Every unit has a seed of its own, so a resumed run equals an
uninterrupted one.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn

from ptq_export.calibrators.capture import Reference, UnitData, capture
from ptq_export.calibrators.grids import input_grid, output_grid, symmetric_grid
from ptq_export.calibrators.observe import Observation, observe
from ptq_export.calibrators.reconstruct import Recipe, correct_bias, reconstruct
from ptq_export.calibrators.rounding import SoftLayer
from ptq_export.calibrators.sites import Site, Unit, find_units
from ptq_export.denoiser import Denoiser
from ptq_export.device import exact_floats
from ptq_export.nn.layers import QuantisedLayer, quantised_layer
from ptq_export.nn.scheme import Scheme
from ptq_export.nn.share import share
from ptq_export.pairs import Pairs

__all__ = ["Method", "QuantisationState", "UnitStore", "quantise", "quantised_modules", "restore"]

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
    units = find_units(denoiser.module, sites)
    names = tuple(name for unit in units for name in unit.sites)
    model = share(denoiser.module).requires_grad_(False)
    pairs = pairs.on(denoiser.device)
    reference = Reference(denoiser.module, [unit.name for unit in units], pairs)
    observations: dict[str, Observation] = {}
    for index, unit in enumerate(units):
        state = store.load(index)
        if state is None:
            observations = observations or observe(denoiser, pairs, names, method.scheme)
            wanted = reference.take(unit.name)
            soft = {name: _soft(model.get_submodule(name), observations[name], method) for name in unit.sites}
            _quantise_unit(denoiser.module, model, unit, soft, wanted, pairs, method.for_unit(index))
            store.save(index, _state(model, unit.sites))
        else:
            restore(model, state)
        advance(unit.name)
    return model


def _quantise_unit(
    reference: nn.Module,
    model: nn.Module,
    unit: Unit,
    soft: dict[str, SoftLayer],
    wanted: UnitData,
    pairs: Pairs,
    method: Method,
) -> None:
    (found,) = capture(model, [unit.name], pairs)
    data = UnitData(found.call, wanted.output)
    for name, layer in soft.items():
        model.set_submodule(name, layer)
    module = model.get_submodule(unit.name)
    if method.recipe is None:
        inside = {name.removeprefix(unit.name).removeprefix("."): layer for name, layer in soft.items()}
        correct_bias(reference.get_submodule(unit.name), module, inside, wanted, data)
    else:
        reconstruct(module, list(soft.values()), data, method.recipe, method.seed)
    for name, layer in soft.items():
        model.set_submodule(name, layer.harden())


def _soft(layer: nn.Module, seen: Observation, method: Method) -> SoftLayer:
    assert isinstance(layer, nn.Conv2d | nn.Linear)
    signed, metric = method.scheme.signed, method.metric
    grid = symmetric_grid(seen.input, metric) if signed else input_grid(seen.input, metric, layer.weight.detach())
    output = output_grid(seen.output, metric) if seen.output else None
    return SoftLayer(layer, grid, output, method.scheme, learn=method.recipe is not None)


def quantised_modules(model: nn.Module) -> dict[str, QuantisedLayer]:
    """The integer layers by module path."""
    return {name: module for name, module in model.named_modules() if isinstance(module, QuantisedLayer)}


def restore(model: nn.Module, state: QuantisationState) -> None:
    """Put the integer layers of `state` (`<module path>.<buffer>`) in place of the float ones of `model`."""
    layers: dict[str, QuantisationState] = {}
    for key, value in state.items():
        name, buffer = key.rsplit(".", 1)
        layers.setdefault(name, {})[buffer] = value
    for name, buffers in layers.items():
        layer = model.get_submodule(name)
        device = layer.get_parameter("weight").device
        model.set_submodule(name, quantised_layer({key: value.to(device) for key, value in buffers.items()}, layer))


def _state(model: nn.Module, names: tuple[str, ...]) -> QuantisationState:
    layers = {name: model.get_submodule(name) for name in names}
    return {f"{name}.{key}": value.cpu() for name, layer in layers.items() for key, value in layer.state_dict().items()}
