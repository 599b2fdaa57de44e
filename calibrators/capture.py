"""What the units of a network read and make over the calibration pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ptq_export.nn.calls import Call
from ptq_export.pairs import Pairs

__all__ = ["BATCH", "Reference", "UnitData", "capture"]

BATCH = 16
MAX_BYTES = 1 << 30


@dataclass(frozen=True)
class UnitData:
    """What a unit is called with, and its output `[N, ...]`."""

    call: Call
    output: Tensor

    @property
    def nbytes(self) -> int:
        """Memory of all of it."""
        return sum(value.nbytes for value in (*self.call.tensors, self.output))


class _Reached(Exception):
    """Control flow: the rest of the network need not run."""


@torch.no_grad()
def capture(model: nn.Module, units: Sequence[str], pairs: Pairs) -> list[UnitData]:
    """The data of the `units` (module paths in execution order) inside `model`, over all pairs."""
    calls: dict[str, list[Call]] = {name: [] for name in units}
    outputs: dict[str, list[Tensor]] = {name: [] for name in units}

    def hook(name: str, unit: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        calls[name].append(Call.of(unit, args, kwargs, output))
        outputs[name].append(output)
        if name == units[-1]:
            raise _Reached

    handles = [
        model.get_submodule(name).register_forward_hook(
            lambda unit, args, kwargs, made, name=name: hook(name, unit, args, kwargs, made), with_kwargs=True
        )
        for name in units
    ]
    try:
        for batch in pairs.batches(BATCH):
            try:
                batch.through(model)
            except _Reached:
                continue
    finally:
        for handle in handles:
            handle.remove()
    return [UnitData(Call.join(calls[name]), torch.cat(outputs[name])) for name in units]


class Reference:
    """The data of a float network's units, asked for in order: one pass serves as many as fit in `max_bytes`."""

    def __init__(self, model: nn.Module, units: Sequence[str], pairs: Pairs, max_bytes: int = MAX_BYTES) -> None:
        self._model, self._units, self._pairs, self._max_bytes = model, list(units), pairs, max_bytes
        self._held: dict[str, UnitData] = {}
        self._bytes: list[int] = []

    def take(self, unit: str) -> UnitData:
        """The data of `unit`, which is then forgotten."""
        if unit not in self._held:
            names = self._fitting(self._units.index(unit))
            self._held = dict(zip(names, capture(self._model, names, self._pairs), strict=True))
        return self._held.pop(unit)

    def _fitting(self, first: int) -> list[str]:
        if not self._bytes:
            one = self._pairs.rows(slice(1))
            self._bytes = [data.nbytes * len(self._pairs) for data in capture(self._model, self._units, one)]
        last, total = first + 1, self._bytes[first]
        while last < len(self._units) and total + self._bytes[last] <= self._max_bytes:
            total += self._bytes[last]
            last += 1
        return self._units[first:last]
