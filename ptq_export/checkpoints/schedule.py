"""A diffusers scheduler configuration as a `NoiseSchedule`: honoured, or refused or noted by name, never dropped."""

import math
from collections.abc import Mapping
from inspect import signature
from typing import Any

import diffusers

from ptq_export.checkpoints.strangers import refuse_scheduler
from ptq_export.denoiser import NoiseSchedule
from ptq_export.errors import InputError
from ptq_export.schedulers import SAMPLERS, alphas_cumprod, make_scheduler

__all__ = ["noise_schedule", "schedule_notes"]

_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2", "sigmoid", "laplace")
_PREDICTIONS = ("epsilon", "sample", "v_prediction")
_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")
_SPACINGS = ("leading", "linspace", "trailing")
_NOT_YET = {"use_dynamic_shifting": True}
_FIELDS = (
    "num_train_timesteps",
    "beta_schedule",
    "beta_start",
    "beta_end",
    "trained_betas",
    "rescale_betas_zero_snr",
    "prediction_type",
    "clip_sample",
    "clip_sample_range",
    "variance_type",
)
_MOST_TIMESTEPS = 100_000
_REMEDY = "give the scheduler configuration that the net was trained with: DDPMScheduler's or DDIMScheduler's"


def noise_schedule(config: Mapping[str, Any], path: str) -> NoiseSchedule:
    """The schedule that `config` (of the file `path`) describes; absent values are the defaults of the scheduler that
    it names, which clips no sample if it has no such setting.

    Raises:
        InputError: not a variance-preserving schedule with fixed betas, or values out of range.
    """
    kind = config.get("_class_name", "the scheduler")
    if not isinstance(kind, str):
        raise InputError(f"{path}: _class_name is a {type(kind).__name__}, not the name of a scheduler", _REMEDY)
    refuse_scheduler(config, path)
    defaults = _defaults(config)
    if "beta_schedule" not in config and "beta_schedule" not in defaults:
        raise InputError(f"{path}: {kind} has no beta_schedule, so it is no DDPM noise schedule", _REMEDY)
    for name, refused in _NOT_YET.items():
        if config.get(name) == refused:
            raise InputError(f"{path}: {name} = {config[name]} is not supported yet", _REMEDY)
    known = {name: {**defaults, **config}[name] for name in _FIELDS if name in defaults or name in config}
    if known.get("variance_type", "") is None:
        del known["variance_type"]
    if config.get("_class_name"):
        known.setdefault("clip_sample", False)
    if (betas := known.get("trained_betas")) is not None:
        if not isinstance(betas, list) or not betas or not all(type(beta) in (int, float) for beta in betas):
            raise InputError(f"{path}: trained_betas are no list of numbers", _REMEDY)
        known["trained_betas"] = tuple(betas)
        if known.get("num_train_timesteps", len(betas)) != len(betas):
            raise InputError(f"{path}: {len(betas)} trained_betas for {known['num_train_timesteps']} steps", _REMEDY)
    settings = _further(config, defaults, path)
    schedule = NoiseSchedule(**known, scheduler=config.get("_class_name", ""), settings=settings)
    if settings.get("timestep_spacing", "leading") not in _SPACINGS:
        raise InputError(f"{path}: timestep_spacing = {settings['timestep_spacing']} is not known", _REMEDY)
    if not _is_sound(schedule):
        shown = {name: value for name, value in known.items() if name != "trained_betas"}
        raise InputError(f"{path} describes no usable noise schedule: {shown}", _REMEDY)
    make_scheduler(schedule)
    return schedule


def schedule_notes(config: Mapping[str, Any]) -> tuple[str, ...]:
    """What the user should know of a configuration that `noise_schedule` takes: whose samplers, and what is unknown."""
    kind, defaults = config.get("_class_name", ""), _defaults(config)
    notes = []
    names = {base.__name__: name for name, scheduler in SAMPLERS.items() for base in scheduler.__mro__}
    if kind and kind not in names:
        notes.append(f"{kind} is not among the samplers ({', '.join(sorted(SAMPLERS))}): its noise schedule is taken")
    elif names.get(kind, "ddim") not in ("ddim", "ddpm"):
        notes.append(
            f"scheduler_config.json names {kind}: calibration and proofs sample the same schedule with DDIM; "
            f"sample --sampler {names[kind]} takes the folder's own"
        )
    known = {name for sampler in SAMPLERS.values() for name in signature(sampler).parameters} | set(defaults)
    unknown = sorted(name for name in config if name not in known and not name.startswith("_"))
    if unknown:
        notes.append(f"scheduler_config.json: left out what no sampler here knows: {', '.join(unknown)}")
    return tuple(notes)


def _defaults(config: Mapping[str, Any]) -> dict[str, Any]:
    """The defaults of the diffusers scheduler that `config` names; none if it names none."""
    name = config.get("_class_name", "")
    if not isinstance(name, str) or not name.endswith("Scheduler") or not hasattr(diffusers, name):
        return {}
    parameters = signature(getattr(diffusers, name)).parameters.values()
    return {parameter.name: parameter.default for parameter in parameters if parameter.default is not parameter.empty}


def _further(config: Mapping[str, Any], defaults: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The settings beside `_FIELDS`, without a default of minus infinity (`lambda_min_clipped`), which JSON lacks."""
    settings = {name: value for name, value in config.items() if name not in _FIELDS and not name.startswith("_")}
    endless = {name for name, value in settings.items() if isinstance(value, float) and not math.isfinite(value)}
    for name in endless:
        if settings[name] != defaults.get(name):
            raise InputError(f"{path}: {name} = {settings[name]} is no number", _REMEDY)
        del settings[name]
    return settings


def _is_sound(schedule: NoiseSchedule) -> bool:
    steps, start, end = schedule.num_train_timesteps, schedule.beta_start, schedule.beta_end
    numbers = isinstance(steps, int) and isinstance(start, float | int) and isinstance(end, float | int)
    if not numbers or schedule.beta_schedule not in _BETAS or schedule.prediction_type not in _PREDICTIONS:
        return False
    if schedule.variance_type not in _VARIANCES or not 0 < steps <= _MOST_TIMESTEPS or not 0 < start <= end < 1:
        return False
    reach = schedule.clip_sample_range
    if not isinstance(reach, float | int) or not reach > 0 or not isinstance(schedule.clip_sample, bool):
        return False
    return _fall(schedule)


def _fall(schedule: NoiseSchedule) -> bool:
    """Whether the share of x_0 in x_t falls from below 1 to no less than 0."""
    try:
        shares = alphas_cumprod(schedule)
    except (TypeError, ValueError, RuntimeError):
        return False
    least = shares[-1] >= 0 if schedule.rescale_betas_zero_snr else shares[-1] > 0
    return bool(shares.isfinite().all() and shares[0] < 1 and (shares.diff() <= 0).all() and least)
