"""What of a forward is alive where it stands still: the memory that it takes to keep it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ptq_export.calibrators.suspended import SuspendedForward
from ptq_export.pairs import Pairs

__all__ = ["LiveBytes", "bytes_to_suspend"]


class LiveBytes(TorchFunctionMode):
    """Sees every tensor that is made while it is entered; `count` are the bytes of those that are still referred to."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self._made: list[ReferenceType[Tensor]] = []
        self._owned = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}

    def __torch_function__(
        self, function: Any, types: Any, args: Iterable[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = function(*args, **(kwargs or {}))
        values = result if isinstance(result, tuple | list) else (result,)
        self._made += [ref(value) for value in values if isinstance(value, Tensor)]
        return result

    def count(self) -> int:
        """Each storage once, and none of the network's own."""
        alive = [(made, value) for made in self._made if (value := made()) is not None]
        self._made = [made for made, _ in alive]
        storages = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for _, value in alive}
        return sum(size for place, size in storages.items() if place not in self._owned)


def bytes_to_suspend(model: nn.Module, units: Sequence[str], pairs: Pairs) -> float:
    """Bytes per pair of a forward of `model` that halts at its units, at most; infinite where it cannot be suspended.

    Found by suspending two forwards, of the first pair and the last, at every unit by turns: they must make what
    forwards that were not suspended make.
    """
    rows = [pairs.rows(slice(1)), pairs.rows(slice(len(pairs) - 1, None))]
    forwards = [SuspendedForward(model, row) for row in rows]
    try:
        most = _most_bytes(model, units, forwards)
        if most == float("inf"):
            return most
        made = [forward.finish() for forward in forwards]
    finally:
        for forward in forwards:
            forward.close()
    with torch.no_grad():
        equal = all(torch.equal(found, row.through(model)) for found, row in zip(made, rows, strict=True))
    return most if equal else float("inf")


def _most_bytes(model: nn.Module, units: Sequence[str], forwards: Sequence[SuspendedForward]) -> float:
    most, live = 0.0, [LiveBytes(model) for _ in forwards]
    for unit in units:
        for forward, each in zip(forwards, live, strict=True):
            with each:
                called = forward.until(unit, behind=True) is not None
            most = max(most, each.count()) if called else float("inf")
    return most
