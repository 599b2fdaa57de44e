"""Which layers read one tensor, and what before it can be divided so that they may be multiplied: found by trying.

No table of classes. A candidate's rows are divided by random gains and the block around it is called again: it is the
source if what the layers read comes out divided by just these. Whether nothing else reads it is proved on the whole
network, with every source and its readers changed at once.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ptq_export.denoiser import Denoiser
from ptq_export.nn.bake import is_plain
from ptq_export.nn.balance import Reading, balance, channels_of, divided
from ptq_export.nn.calls import the_input
from ptq_export.nn.probe import EQUAL, difference, noise, probe

__all__ = ["find_readings"]

CANDIDATES = 3
LEVELS = 3  # blocks around a reader in which its source is sought: a gated unit, a feed-forward, a transformer block
_Layer = nn.Linear | nn.Conv2d


@dataclass
class _Trace:
    """One call of a network: layers and norms in the order in which they were done, what each module was first called
    with, and the readers of each tensor, by where it lies."""

    done: list[str] = field(default_factory=list)
    calls: dict[str, tuple[tuple[Any, ...], Mapping[str, Any]]] = field(default_factory=dict)
    readers: dict[tuple[Any, ...], list[str]] = field(default_factory=dict)

    def input_of(self, name: str) -> Tensor:
        """What a layer read."""
        return the_input(*self.calls[name])


def find_readings(denoiser: Denoiser, wanted: Collection[str]) -> tuple[Reading, ...]:
    """The tensors that at least one of the layers `wanted` reads, with their sources, in execution order."""
    module, trace = denoiser.module, _traced(denoiser)
    groups = [tuple(dict.fromkeys(names)) for names in trace.readers.values() if not {*names}.isdisjoint(wanted)]
    once = [names for names in groups if sum(not {*names}.isdisjoint(other) for other in groups) == 1]
    found = [_with_source(module, trace, Reading(names)) for names in once]
    proved = _proved(denoiser, [reading for reading in found if reading.source])
    return tuple(it if it in proved else Reading(it.readers) for it in found)


def _traced(denoiser: Denoiser) -> _Trace:
    trace = _Trace()

    def finished(name: str, layer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        trace.calls.setdefault(name, (args, kwargs))  # which keeps the tensors: an address is one tensor's
        if channels_of(layer):
            trace.done.append(name)
        if name in readers:
            x = the_input(args, kwargs)
            trace.readers.setdefault((x.data_ptr(), tuple(x.shape), x.stride()), []).append(name)

    readers = {name for name, layer in denoiser.module.named_modules() if _can_read(layer)}
    handles = [
        child.register_forward_hook(
            lambda layer, args, kwargs, _, name=name: finished(name, layer, args, kwargs), with_kwargs=True
        )
        for name, child in denoiser.module.named_modules()
    ]
    try:
        with torch.no_grad():
            middle = denoiser.schedule.num_train_timesteps // 2
            noise(denoiser, 1, middle, 0).on(denoiser.device).through(denoiser.module)
    finally:
        for handle in handles:
            handle.remove()
    return trace


def _can_read(layer: nn.Module) -> bool:
    return isinstance(layer, _Layer) and is_plain(layer) and getattr(layer, "groups", 1) == 1


def _with_source(module: nn.Module, trace: _Trace, group: Reading) -> Reading:
    """The group with the nearest candidate that passes the trial; the group itself if none does."""
    candidates = _candidates(module, trace, group)
    return next((it for it in candidates if _passes(module, trace, it)), group)


def _candidates(module: nn.Module, trace: _Trace, group: Reading) -> Iterator[Reading]:
    """Norms and layers before the readers, the nearest first, that make as many channels, or twice as many: then
    the first half or the second."""
    channels = module.get_submodule(group.name).get_parameter("weight").shape[1]
    *_, outermost = _around(group.name, trace)
    before = trace.done[: trace.done.index(group.name)]
    near = [name for name in dict.fromkeys(reversed(before)) if _is_in(name, outermost)]
    made = {name: channels_of(module.get_submodule(name)) for name in near}
    for name in [name for name in near if made[name] in (channels, 2 * channels)][:CANDIDATES]:
        yield from (Reading(group.readers, name, first) for first in range(0, made[name], channels))


def _around(name: str, trace: _Trace) -> list[str]:
    """The called modules that a layer is in, the innermost first: as many as are searched."""
    parts = name.split(".")
    outer = (".".join(parts[:count]) for count in reversed(range(len(parts))))
    return [path for path in outer if path in trace.calls][:LEVELS]


def _is_in(name: str, block: str) -> bool:
    return not block or name.startswith(f"{block}.")


def _passes(module: nn.Module, trace: _Trace, candidate: Reading) -> bool:
    """Whether the readers' tensor is divided by what the source's rows are divided by."""
    block = next(it for it in _around(candidate.name, trace) if _is_in(candidate.source, it))
    source, gains = candidate.source.removeprefix(block).removeprefix("."), _random_gains(module, candidate)
    changed = divided(module.get_submodule(candidate.source), candidate.first, gains)
    parameters = {f"{source}.{key}": value for key, value in changed.items()}
    reader = module.get_submodule(candidate.name)
    seen: list[Tensor] = []
    handle = reader.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(the_input(args, kwargs)), with_kwargs=True
    )
    args, kwargs = trace.calls[block]
    try:
        with torch.no_grad():
            functional_call(module.get_submodule(block), parameters, args, dict(kwargs))
    finally:
        handle.remove()
    along = gains[:, None, None] if isinstance(reader, nn.Conv2d) else gains
    return difference(trace.input_of(candidate.name), seen[0] * along) <= EQUAL


def _random_gains(module: nn.Module, reading: Reading) -> Tensor:
    """Between a half and two."""
    weight = module.get_submodule(reading.name).get_parameter("weight")
    generator = torch.Generator().manual_seed(0)
    return torch.exp2(2 * torch.rand(weight.shape[1], generator=generator) - 1).to(weight.device)


def _proved(denoiser: Denoiser, readings: Sequence[Reading]) -> list[Reading]:
    """Those of `readings` with which the network stays the same function, all at once or each alone."""
    pairs = probe(denoiser).on(denoiser.device)
    wanted = pairs.through(denoiser)

    def holds(some: Sequence[Reading]) -> bool:
        changed = balance(denoiser, {reading: _random_gains(denoiser.module, reading) for reading in some})
        return difference(wanted, pairs.through(changed)) <= EQUAL

    return list(readings) if holds(readings) else [reading for reading in readings if holds([reading])]
