"""What the units of two networks, full precision and quantised so far, read and make over the calibration pairs.

Every batch goes through each network once, whatever the number of units: its forwards are suspended where the unit
stands whose data are asked for. So all that a network has alive there is held, for all batches; past `max_bytes` of it
the batches that are left begin again for each unit, as do all of a network whose forwards are not independent of each
other (one that keeps something on itself between its layers).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ptq_export.calibrators.live_bytes import bytes_to_suspend
from ptq_export.calibrators.suspended import Halt, SuspendedForward, follow_replacements
from ptq_export.machine import total_memory_bytes
from ptq_export.nn.calls import Call
from ptq_export.pairs import Pairs

__all__ = ["BATCH", "Frontier", "UnitData"]

BATCH = 16
SHARE = 8  # of the memory that there is


@dataclass(frozen=True)
class UnitData:
    """What a unit is called with, and its output `[N, ...]`."""

    call: Call
    output: Tensor


class Frontier:
    """The forwards of `reference` and of `model` over all pairs, at the unit (module path) whose data were last taken.

    `layers` are the modules of `model` that may be replaced in between. Use it as a context.
    """

    def __init__(
        self,
        reference: nn.Module,
        model: nn.Module,
        layers: Sequence[str],
        units: Sequence[str],
        pairs: Pairs,
        max_bytes: int | None = None,
    ) -> None:
        self._networks, self._units, self._pairs = (reference, model), units, pairs
        self._batches = list(pairs.batches(BATCH))
        self._max_bytes = max_bytes
        self._held: int | None = None
        self._forwards: dict[tuple[nn.Module, int], SuspendedForward] = {}
        self._following = follow_replacements(model, layers)

    def __enter__(self) -> "Frontier":
        self._following.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        for forward in self._forwards.values():
            forward.close()
        self._forwards.clear()
        self._following.__exit__(None, None, None)

    def take(self, unit: str) -> tuple[UnitData, UnitData]:
        """The data of a unit: what it reads in either network, and with both the full-precision network's output."""
        wanted, found, outputs = zip(*(self._visit(unit, batch) for batch in range(len(self._batches))), strict=True)
        output = torch.cat(outputs)
        return UnitData(Call.join(wanted), output), UnitData(Call.join(found), output)

    def _visit(self, unit: str, batch: int) -> tuple[Call, Call, Tensor]:
        reference, model = self._networks
        made, read = self._halt(reference, unit, batch, behind=True), self._halt(model, unit, batch, behind=False)
        assert made.output is not None, "it stands behind the unit"
        module = reference.get_submodule(unit)
        wanted, found = (Call.of(module, halt.args, halt.kwargs, made.output) for halt in (made, read))
        return wanted, found, made.output

    def _halt(self, network: nn.Module, unit: str, batch: int, behind: bool) -> Halt:
        forward = self._forwards.pop((network, batch), None)
        found = None if forward is None else forward.until(unit, behind)
        if forward is None or found is None:  # it has passed the unit
            forward = SuspendedForward(network, self._batches[batch])
            found = forward.until(unit, behind)
        if found is None:
            raise RuntimeError(f"{unit} is not called in every forward")
        if batch < self.held:
            self._forwards[network, batch] = forward
        else:
            forward.close()
        return found

    @property
    def held(self) -> int:
        """How many batches are suspended between units; the others begin again."""
        if self._held is None:
            most = self._max_bytes or _room(self._pairs.sample.device)
            one = 2 * BATCH * bytes_to_suspend(self._networks[0], self._units, self._pairs)
            self._held = min(len(self._batches), int(most // max(one, 1)))
        return self._held


def _room(device: torch.device) -> int:
    """Bytes for suspended forwards."""
    memory = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else total_memory_bytes()
    return memory // SHARE
