"""One picture per request, drawn by whatever computes a step: what Triton's sampler does, without Triton.

The loop, the schedules and the guidance are this package's own, so a picture is the one that `ptq-export sample` draws.
"""

import math
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptq_export.clean_estimate import CleanEstimate
from ptq_export.denoiser import NoiseSchedule
from ptq_export.engines.feeds import check_names, checked
from ptq_export.errors import InputError
from ptq_export.guidance import Guided
from ptq_export.interface import OUTPUT, SAMPLE, TIMESTEP, Input, Prompt, inputs_from_json, prompt_from_json
from ptq_export.pipeline.commands.reopened import read_schedule
from ptq_export.sampling import Step, initial_noise, sample_loop
from ptq_export.schedulers import check_steps, make_scheduler
from ptq_export.schemas import MANIFEST, read_part

__all__ = ["UNCONDITIONAL", "Arrays", "Drawer", "Frame", "Wish", "shows_images"]

Arrays = Mapping[str, NDArray[Any]]
Compute = Callable[[Arrays], Arrays]
"""Outputs by name of inputs by name, as a model of the server takes them: `[N, ...]`, a number per row as `[N, 1]`."""

UNCONDITIONAL = "unconditional_"
SETTINGS = ("seed", "steps", "guidance", "preview")
DEFAULT_STEPS = 20
SEED_BITS = 31


@dataclass(frozen=True)
class Wish:
    """A picture that is asked for; `conditions` and what guidance takes away instead are rows `[1, ...]`.

    Attributes:
        preview: A preview after so many steps each; none at 0.
    """

    seed: int
    steps: int
    sampler: str
    guidance: float
    preview: int
    conditions: Arrays = field(default_factory=dict)
    unconditional: Arrays = field(default_factory=dict)


@dataclass(frozen=True)
class Frame:
    """The sample `[C, H, W]` after `step` of `steps` calls of the network: x_0 as it is expected then, and in the end
    x_0 itself. `image` is `[H, W, C]` in 0..255, where samples are images."""

    sample: NDArray[np.float32]
    image: NDArray[np.uint8] | None
    step: int
    steps: int


class Drawer:
    """Pictures of the denoiser whose manifest lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        manifest = read_part(folder, MANIFEST)
        where = str(folder / MANIFEST)
        told = manifest.get("package", {})
        prompt = told.get("prompt")
        self.schedule = read_schedule(manifest, folder)
        self.inputs = inputs_from_json(manifest["denoiser"]["inputs"], where)
        self.clean_estimate = CleanEstimate(self.schedule)
        self.sample_shape = tuple(int(size) for size in self.inputs[0].shape)
        self.prompt = None if prompt is None else prompt_from_json(prompt, where)
        self.prompt_reads = tuple(told.get("prompt_reads", ()))
        self.range = self.schedule.sample_range if shows_images(self.sample_shape, self.schedule) else None

    def wish(self, given: Arrays, sampler: object = None) -> Wish:
        """What a request asks for: settings of one number, and conditions without a batch; `sampler` by its name.

        Raises:
            InputError: a setting or a condition cannot be used; the message names it.
        """
        numbers = {name: given[name].reshape(-1)[0] for name in SETTINGS if name in given}
        seed = int(numbers.get("seed", secrets.randbits(SEED_BITS)))
        steps, preview = int(numbers.get("steps", DEFAULT_STEPS)), int(numbers.get("preview", 0))
        guidance = float(numbers.get("guidance", 1.0))
        sampler = self.schedule.sampler if sampler is None else str(sampler)
        for name, value in {"seed": seed, "preview": preview}.items():
            if value < 0:
                raise InputError(f"{name} is {value}", "give 0 or more")
        if not math.isfinite(guidance):
            raise InputError(f"guidance is {guidance}", "give a finite number")
        make_scheduler(self.schedule, sampler)
        check_steps(self.schedule, steps, sampler)
        conditions = self._rows(given, "", every=True)
        away = self._rows(given, UNCONDITIONAL, every=False)
        if away and guidance == 1:
            names = ", ".join(f"{UNCONDITIONAL}{name}" for name in away)
            raise InputError(f"{names} would be left unused", "give guidance, other than 1, or leave it out")
        if guidance != 1 and not away:
            names = ", ".join(f"{UNCONDITIONAL}{each.name}" for each in self.inputs[2:]) or "conditions"
            raise InputError("guidance needs what it leads away from", f"give {names}, or leave guidance out")
        return Wish(seed, steps, sampler, guidance, preview, conditions, away)

    def draw(self, wish: Wish, step: Compute, prompt: Compute, after: Callable[[Frame | None], None]) -> Frame:
        """The picture; `step` and `prompt` are the models of the server.

        `after` is called after every step but the last, with a preview where one is due; what it raises ends the work.
        """
        scheduler = make_scheduler(self.schedule, wish.sampler)
        scheduler.set_timesteps(wish.steps)
        steps = len(scheduler.timesteps)
        model: Callable[..., Tensor] = _Model(self.inputs, self.prompt, self.prompt_reads, step, prompt)
        if wish.unconditional:
            model = Guided(model, wish.guidance, _tensors(wish.unconditional))

        def done(now: Step) -> None:
            number = now.index + 1
            due = wish.preview and number % wish.preview == 0
            if number < steps:
                after(self._frame(self.clean_estimate(now), number, steps) if due else None)

        noise = initial_noise((1, *self.sample_shape), wish.seed)
        sample = sample_loop(model, scheduler, noise, wish.steps, _tensors(wish.conditions), done, wish.seed)
        return self._frame(sample, steps, steps)

    def _frame(self, sample: Tensor, step: int, steps: int) -> Frame:
        values: NDArray[np.float32] = sample[0].numpy()
        image = None if self.range is None else _image(values, *self.range)
        return Frame(values, image, step, steps)

    def _rows(self, given: Arrays, prefix: str, every: bool) -> dict[str, NDArray[Any]]:
        """The conditions of a request whose names begin with `prefix`, as rows: all of them, or those it has."""
        sample, time, *conditions = self.inputs
        named = [replace(it, name=f"{prefix}{it.name}") for it in conditions]
        inputs = [sample, time, *(it for it in named if every or it.name in given)]
        rows = {it.name: given[it.name][None] if it.shape else given[it.name] for it in named if it.name in given}
        check_names(inputs, rows)
        nothing = {SAMPLE: np.zeros((1, *self.sample_shape), np.float32), TIMESTEP: 0}
        whole = checked(inputs, self.schedule.num_train_timesteps, 1, {**nothing, **rows})
        return {name.removeprefix(prefix): whole[name] for name in rows}


class _Model:
    """The denoiser, as the sampling loop calls it, of the models that compute it."""

    def __init__(
        self, inputs: tuple[Input, ...], prompt: Prompt | None, reads: tuple[str, ...], step: Compute, once: Compute
    ) -> None:
        taken = inputs if prompt is None else prompt.step_inputs(inputs)
        self._direct = [it.name for it in taken[2:] if prompt is None or it not in prompt.values]
        self._reads, self._step, self._once = reads, step, once
        self._known: tuple[dict[str, NDArray[Any]], Arrays] | None = None

    def __call__(self, sample: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        """The prediction `[N, ...]`; values of the prompt graph are asked for once."""
        rows = {name: _column(value.numpy()) for name, value in conditions.items()}
        feeds = {SAMPLE: sample.numpy(), TIMESTEP: _column(timestep.numpy()), **{it: rows[it] for it in self._direct}}
        output: Tensor = torch.from_numpy(self._step({**feeds, **self._values(rows)})[OUTPUT])
        return output

    def _values(self, rows: Mapping[str, NDArray[Any]]) -> Arrays:
        given = {name: rows[name] for name in self._reads}
        if not given:
            return {}
        if self._known is None or not all(np.array_equal(it, given[name]) for name, it in self._known[0].items()):
            self._known = given, self._once(given)
        return self._known[1]


def shows_images(shape: tuple[int, ...], schedule: NoiseSchedule) -> bool:
    """Whether samples are images: `[1, H, W]` or `[3, H, W]`, in a range that the schedule knows."""
    return len(shape) == 3 and shape[0] in (1, 3) and schedule.sample_range is not None


def _image(sample: NDArray[np.float32], low: float, high: float) -> NDArray[np.uint8]:
    levels = np.clip(np.rint(255 * (sample.astype(np.float64) - low) / (high - low)), 0, 255)
    return np.ascontiguousarray(np.moveaxis(levels.astype(np.uint8), 0, -1))


def _tensors(rows: Arrays) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in rows.items()}


def _column(values: NDArray[Any]) -> NDArray[Any]:
    """One number per row as a server takes it, `[N, 1]`."""
    return values.reshape(-1, 1) if values.ndim == 1 else values
