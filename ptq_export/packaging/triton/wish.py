"""What a request to the sampler asks for: settings and conditions are its tensors, text its parameters.

What words mean, and what may stand beside them, is as it is over HTTP (`ptq_export.serving.wording`).
"""

import math
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import Any

from numpy.typing import NDArray

from ptq_export.denoiser import NoiseSchedule
from ptq_export.engines.feeds import check_names, checked, zeros
from ptq_export.engines.text_to_image import PromptEncoder
from ptq_export.errors import InputError
from ptq_export.interface import SAMPLE, TIMESTEP, Input
from ptq_export.packaging.triton.served import Arrays
from ptq_export.schedulers import check_steps, make_scheduler
from ptq_export.serving.encoding import KEPT, encoded_alone
from ptq_export.serving.fields import FieldError
from ptq_export.serving.wording import NEGATIVE, Wording, encoded_wording, wording_of

__all__ = ["TEXTS", "UNCONDITIONAL", "Wish", "Wishes"]

UNCONDITIONAL = "unconditional_"
SETTINGS = ("seed", "steps", "guidance", "preview")
TEXTS = ("prompt", NEGATIVE)
DEFAULT_STEPS = 20
SEED_BITS = 31


@dataclass(frozen=True)
class Wish:
    """A picture that is asked for; `conditions` and what guidance takes away instead are rows `[1, ...]`.

    Attributes:
        preview: A preview after so many steps each; none at 0.
        cut: Those of `TEXTS` that had more tokens than the text encoder takes.
    """

    seed: int
    steps: int
    sampler: str
    guidance: float
    preview: int
    conditions: Arrays = field(default_factory=dict)
    unconditional: Arrays = field(default_factory=dict)
    cut: tuple[str, ...] = ()


class Wishes:
    """The reader of requests to one denoiser."""

    def __init__(
        self, schedule: NoiseSchedule, inputs: tuple[Input, ...], encoder: PromptEncoder | None, examples: Arrays
    ) -> None:
        """`examples` are what conditions are that need not be given, without a batch."""
        self.schedule, self.inputs, self.examples = schedule, inputs, examples
        self.parts = None if encoder is None else encoder.parts
        self._encode = None if encoder is None else lru_cache(KEPT)(partial(encoded_alone, encoder))

    def __call__(self, given: Arrays, told: Mapping[str, Any]) -> Wish:
        """The wish in tensors of one picture, without a batch, and in parameters. Words are encoded: it takes time.

        Raises:
            InputError: a setting, a text or a condition cannot be used; the message names it.
        """
        numbers = {name: given[name].reshape(-1)[0] for name in SETTINGS if name in given}
        seed = int(numbers.get("seed", secrets.randbits(SEED_BITS)))
        steps, preview = int(numbers.get("steps", DEFAULT_STEPS)), int(numbers.get("preview", 0))
        guidance = float(numbers["guidance"]) if "guidance" in numbers else None
        sampler = str(told.get("sampler", self.schedule.sampler))
        for name, value in {"seed": seed, "preview": preview}.items():
            if value < 0:
                raise InputError(f"{name} is {value}", "give 0 or more")
        if guidance is not None and not math.isfinite(guidance):
            raise InputError(f"guidance is {guidance}", "give a finite number")
        make_scheduler(self.schedule, sampler)
        check_steps(self.schedule, steps, sampler)
        wording = self._wording(given, told, guidance)
        if wording is None:
            scale = 1.0 if guidance is None else guidance
            return Wish(seed, steps, sampler, scale, preview, *self._by_hand(given, scale))
        return Wish(seed, steps, sampler, wording.scale, preview, *self._in_words(given, wording))

    def _wording(self, given: Arrays, told: Mapping[str, Any], guidance: float | None) -> Wording | None:
        texts = {name: told[name] for name in TEXTS if name in told}
        names = [it.name for it in self.inputs[2:]]
        fields: dict[str, Any] = texts | {"conditions": {name: given[name] for name in names if name in given}}
        if away := [name for name in names if f"{UNCONDITIONAL}{name}" in given]:
            fields["unconditional"] = away
        if guidance is not None:
            fields["guidance"] = guidance
        try:
            return wording_of(fields, self.parts)
        except FieldError as error:
            raise InputError(error.message) from error

    def _in_words(self, given: Arrays, wording: Wording) -> tuple[Arrays, Arrays, tuple[str, ...]]:
        assert self._encode is not None
        made, guided, cut = encoded_wording(wording, self._encode)
        away = {name: row[None] for name, row in guided.get("unconditional", {}).items()}
        return self._rows({**given, **made}, "", every=True), away, cut

    def _by_hand(self, given: Arrays, guidance: float) -> tuple[Arrays, Arrays]:
        conditions = self._rows(given, "", every=True)
        away = self._rows(given, UNCONDITIONAL, every=False)
        if away and guidance == 1:
            names = ", ".join(f"{UNCONDITIONAL}{name}" for name in away)
            raise InputError(f"{names} would be left unused", "give guidance, other than 1, or leave it out")
        if guidance != 1 and not away:
            names = ", ".join(f"{UNCONDITIONAL}{each.name}" for each in self.inputs[2:]) or "conditions"
            raise InputError("guidance needs what it leads away from", f"give {names}, or leave guidance out")
        return conditions, away

    def _rows(self, given: Arrays, prefix: str, every: bool) -> dict[str, NDArray[Any]]:
        """The conditions of a request whose names begin with `prefix`, as rows: all of them, or those it has."""
        sample, time, *conditions = self.inputs
        known = {**self.examples, **given} if every else given
        named = [replace(it, name=f"{prefix}{it.name}") for it in conditions]
        inputs = [sample, time, *(it for it in named if every or it.name in given)]
        rows = {it.name: known[it.name][None] if it.shape else known[it.name] for it in named if it.name in known}
        check_names(inputs, rows)
        nothing = {SAMPLE: zeros([sample], 1)[SAMPLE], TIMESTEP: 0}
        whole = checked(inputs, self.schedule.num_train_timesteps, 1, {**nothing, **rows})
        return {name.removeprefix(prefix): whole[name] for name in rows}
