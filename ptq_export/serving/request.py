"""What one picture is asked with, checked against the engine before anything is accepted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptq_export.conditions import Conditions, draw
from ptq_export.denoiser import NoiseSchedule
from ptq_export.engines.base import Signature
from ptq_export.engines.feeds import check_names, checked
from ptq_export.errors import InputError
from ptq_export.interface import LABEL, SAMPLE, TIMESTEP
from ptq_export.schedulers import visited_timesteps

__all__ = ["Generation", "Subject"]

Row = Mapping[str, Tensor]
"""One row `[1, ...]` of every condition."""


@dataclass(frozen=True)
class Generation:
    """One picture to be drawn.

    Attributes:
        seed: Of the initial noise and of what the sampler draws: the picture is that of `ptq-export sample --count 1`.
        steps: Denoising steps.
        sampler: One of `ptq_export.schedulers.SAMPLERS`.
        calls: How often the sampler calls the network in so many steps.
        conditions: What the engine takes besides the sample and the time-step.
        guidance: Scale of classifier-free guidance; None for none.
        unconditional: With guidance, what stands in place of `conditions` in the second row.
    """

    seed: int
    steps: int
    sampler: str
    calls: int
    conditions: Row = field(default_factory=dict)
    guidance: float | None = None
    unconditional: Row = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Rows of a batch that each of its steps takes."""
        return 1 if self.guidance is None else 2

    @property
    def kind(self) -> tuple[Any, ...]:
        """Requests of one kind fit into one batch: their conditions have the same sizes."""
        return tuple((name, tuple(value.shape[1:])) for name, value in sorted(self.conditions.items()))


@dataclass(frozen=True)
class Subject:
    """What an engine draws, as far as requests are concerned."""

    signature: Signature
    schedule: NoiseSchedule
    examples: Conditions = field(default_factory=dict)

    @property
    def classes(self) -> int | None:
        """How many classes it knows."""
        return next((each.limit for each in self.signature.conditions if each.name == LABEL), None)

    def generation(
        self,
        *,
        seed: int,
        steps: int,
        sampler: str,
        conditions: Mapping[str, Any],
        guidance: float | None = None,
        unconditional: Mapping[str, Any] | None = None,
    ) -> Generation:
        """A request; conditions are lists of numbers or arrays of one picture, without a batch.

        A label that is not given is drawn as `ptq-export sample` draws it; all else must be given.

        Raises:
            InputError: the sampler cannot take so many steps; a condition is missing, unknown, or of another shape.
        """
        calls = _calls(self.schedule, steps, sampler)
        given = dict(conditions)
        if self.classes is not None and given.get(LABEL) is None:
            given[LABEL] = self._drawn_label(seed)
        found = self._row(given)
        if (guidance is None) != (unconditional is None):
            raise InputError("guidance wants both its scale and the unconditional side", "give both, or none")
        away = {} if guidance is None else self._unconditional(found, unconditional or {})
        return Generation(seed, steps, sampler, calls, found, guidance, away)

    def _drawn_label(self, seed: int) -> int:
        label = next(each for each in self.signature.conditions if each.name == LABEL)
        examples = {LABEL: self.examples[LABEL]} if LABEL in self.examples else {}
        return int(draw([label], examples, 1, seed)[LABEL].item())

    def _unconditional(self, conditions: Row, given: Mapping[str, Any]) -> Row:
        if not given:
            raise InputError("guidance wants what it takes away", "give `unconditional`, a value per condition")
        if surplus := sorted({*given} - {*conditions}):
            raise InputError(f"unconditional: this engine has no condition {', '.join(surplus)}")
        found = self._row({**{name: value[0].numpy() for name, value in conditions.items()}, **given})
        for name, value in found.items():
            if value.shape != conditions[name].shape:
                sizes = list(value.shape[1:]), list(conditions[name].shape[1:])
                raise InputError(f"unconditional {name} is {sizes[0]}, the condition {sizes[1]}", "pad one of them")
        return found

    def _row(self, given: Mapping[str, Any]) -> Row:
        """One row of every condition, in the words with which the engine itself refuses."""
        inputs = self.signature.inputs
        check_names(inputs, given)
        rows = {each.name: _as_row(each.name, each.dtype, given[each.name]) for each in inputs[2:]}
        sample = np.zeros((1, *self.signature.sample_shape), np.float32)
        feeds = checked(inputs, self.signature.num_train_timesteps, None, {SAMPLE: sample, TIMESTEP: 0, **rows})
        return {each.name: torch.from_numpy(feeds[each.name].copy()) for each in inputs[2:]}


def _as_row(name: str, dtype: str, value: Any) -> NDArray[Any]:
    try:
        found = np.asarray(value)
    except (TypeError, ValueError, OverflowError) as error:  # lists of unequal lengths
        raise InputError(f"{name} is no array of numbers: {error}", "nested lists of equal lengths") from error
    if found.dtype.kind not in "iuf":
        raise InputError(f"{name} is no array of numbers", "nested lists of numbers")
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinite, and is refused as that
        return (found.astype(np.float32) if dtype == "float32" else found)[None]


@lru_cache(maxsize=1024)
def _known_calls(schedule: NoiseSchedule, steps: int, sampler: str) -> int:
    return len(visited_timesteps(schedule, steps, sampler))


def _calls(schedule: NoiseSchedule, steps: int, sampler: str) -> int:
    if steps > schedule.num_train_timesteps or steps < 1:  # at once, not after a search for the nearest that can be
        raise InputError(f"steps {steps} is out of range", f"1..{schedule.num_train_timesteps}")
    return _known_calls(schedule, steps, sampler)
