"""What the user tells of a noise schedule: `--assume predict=, betas=, timesteps=`, or `--scheduler-config`."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptq_export.artifacts import read_json
from ptq_export.checkpoints.assume import NUMBER, Assumable
from ptq_export.checkpoints.schedule import noise_schedule
from ptq_export.denoiser import Denoiser, NoiseSchedule
from ptq_export.errors import InputError

__all__ = [
    "ASSUMED",
    "SCHEDULE_KEYS",
    "assumption_notes",
    "described",
    "read_scheduler",
    "recorded_scheduler",
    "require_one_source",
    "retell",
    "with_betas",
    "with_schedule_of",
]

ASSUMED = "noise schedule assumed"
"""How a note begins that what the user tells makes untrue."""

_PREDICTIONS = {"eps": "epsilon", "x0": "sample", "xstart": "sample", "v": "v_prediction"}
_BETAS = {
    "linear": "linear",
    "cosine": "squaredcos_cap_v2",
    "scaled_linear": "scaled_linear",
    "sigmoid": "sigmoid",
}
SCHEDULE_KEYS: Assumable = {"predict": tuple(_PREDICTIONS), "betas": tuple(_BETAS), "timesteps": NUMBER}
"""What may be assumed of every format whose file does not say it."""

_LINEAR = (0.1, 20.0)  # times 1 / T
_ENDS = {"scaled_linear": (0.00085, 0.012)}
_USUAL = (1e-4, 0.02)  # diffusers' own, which cosine betas do not read


def with_betas(schedule: NoiseSchedule, betas: str, steps: int) -> NoiseSchedule:
    """`schedule` with T = `steps` and the betas that `--assume` calls `betas`.

    Linear ones run from 0.1 / T to 20 / T, so that x_T is as noisy for every T (Nichol & Dhariwal, 2021); scaled_linear
    from 0.00085 to 0.012 (Stable Diffusion), sigmoid from 1e-4 to 0.02 (diffusers' DDPMScheduler).

    Raises:
        InputError: T is so short that linear betas reach 1.
    """
    if betas == "linear" and steps <= _LINEAR[1]:
        cause = f"linear betas reach 20 / T, which is not below 1 for T = {steps}"
        raise InputError(cause, "give --assume timesteps=N as in training, or betas=cosine")
    start, end = (value / steps for value in _LINEAR) if betas == "linear" else _ENDS.get(betas, _USUAL)
    return replace(
        schedule,
        num_train_timesteps=steps,
        beta_schedule=_BETAS[betas],
        beta_start=start,
        beta_end=end,
        trained_betas=None,
    )


def with_schedule_of(assume: Mapping[str, str], schedule: NoiseSchedule) -> NoiseSchedule:
    """`schedule` with what `assume` says of it; `assume` may hold other keys.

    Raises:
        InputError: see `with_betas`; or T is told of betas that the file lists one by one.
    """
    if "predict" in assume:
        schedule = replace(schedule, prediction_type=_PREDICTIONS[assume["predict"]])
    if {"betas", "timesteps"}.isdisjoint(assume):
        return schedule
    words = described(schedule)
    betas, steps = (assume.get(key, words[key]) for key in ("betas", "timesteps"))
    if betas not in _BETAS:
        raise InputError(f"--assume timesteps={steps}: the betas are {betas}", "give --assume betas=... as well")
    if (betas, steps) == (words["betas"], words["timesteps"]):
        return schedule
    return with_betas(schedule, betas, int(steps))


def described(schedule: NoiseSchedule) -> dict[str, str]:
    """A schedule in the words of `--assume`."""
    predicted = (word for word, name in _PREDICTIONS.items() if name == schedule.prediction_type)
    predict = next(predicted, schedule.prediction_type)
    names = {name: word for word, name in _BETAS.items()}
    betas = "the file's own" if schedule.trained_betas else names.get(schedule.beta_schedule, schedule.beta_schedule)
    return {"predict": predict, "betas": betas, "timesteps": str(schedule.num_train_timesteps)}


def assumption_notes(every: Mapping[str, str], assume: Mapping[str, str], reason: str) -> list[str]:
    """What of `every` assumption the user gave, and what was taken from elsewhere, for which there is a `reason`."""
    given, rest = (
        ", ".join(f"{key}={value}" for key, value in every.items() if (key in assume) is by_user)
        for by_user in (True, False)
    )
    notes = [f"{given} given by --assume"] if given else []
    if rest:
        notes.append(f"{rest} assumed, which the tensors do not tell: {reason}; --assume KEY=VALUE sets another")
    return notes


def read_scheduler(path: Path | None) -> dict[str, Any]:
    """The content of the file that `--scheduler-config` names; empty where it names none.

    Raises:
        InputError: no such file, or no JSON object.
    """
    if path is None:
        return {}
    try:
        return read_json(path, infinities=True)
    except InputError as error:
        raise InputError(
            f"--scheduler-config: {error.cause}", "give a scheduler_config.json as diffusers saves it"
        ) from error


def recorded_scheduler(text: str | None) -> dict[str, Any]:
    """What `json.dumps` made of `read_scheduler`'s answer, as a run's request keeps it.

    Raises:
        InputError: the text is no JSON object.
    """
    try:
        value = json.loads(text) if text else {}
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError("the run's scheduler configuration is damaged", "make the run again") from error
    if not isinstance(value, dict):
        raise InputError("the run's scheduler configuration is no JSON object", "make the run again")
    return value


def require_one_source(assume: Mapping[str, str], scheduler: Mapping[str, Any]) -> None:
    """Refuse a schedule that is told twice.

    Raises:
        InputError: `assume` names what `scheduler`, the content of `--scheduler-config`, holds.
    """
    if scheduler and (twice := [key for key in assume if key in SCHEDULE_KEYS]):
        raise InputError(f"--scheduler-config tells {', '.join(twice)} too, which --assume gives", "give one of them")


def retell(denoiser: Denoiser, assume: Mapping[str, str], scheduler: Mapping[str, Any]) -> Denoiser:
    """`denoiser` with the schedule that the user tells; what its notes say of an assumed one is dropped.

    Raises:
        InputError: no usable schedule.
    """
    told = {key: value for key, value in assume.items() if key in SCHEDULE_KEYS}
    if not told and not scheduler:
        return denoiser
    before, source = denoiser.schedule, denoiser.source
    if scheduler:
        schedule = noise_schedule(scheduler, "--scheduler-config")
        if schedule.learns_variance != before.learns_variance:  # the net's outputs decide
            schedule = replace(schedule, variance_type=before.variance_type)
        if denoiser.decoder is not None:  # latents have no range
            schedule = replace(schedule, clip_sample=False)
        note = f"noise schedule given by --scheduler-config: {_words(schedule)}"
    else:
        schedule = with_schedule_of(told, before)
        note = f"{_words_of(told)} given by --assume; noise schedule: {_words(schedule)}"
    notes = (*(text for text in source.notes if not text.startswith(ASSUMED)), note)
    return replace(denoiser, schedule=schedule, source=replace(source, notes=notes))


def _words(schedule: NoiseSchedule) -> str:
    return _words_of(described(schedule))


def _words_of(values: Mapping[str, str]) -> str:
    return ", ".join(f"{key}={value}" for key, value in values.items())
