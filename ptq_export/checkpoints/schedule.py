"""A diffusers scheduler configuration as a `NoiseSchedule`; what it cannot express is refused, not dropped."""

from collections.abc import Mapping
from typing import Any

from ptq_export.checkpoints.strangers import refuse_scheduler
from ptq_export.denoiser import NoiseSchedule
from ptq_export.errors import InputError

__all__ = ["noise_schedule"]

_BETAS = ("linear", "scaled_linear", "squaredcos_cap_v2")
_PREDICTIONS = ("epsilon", "sample", "v_prediction")
_NOT_YET = {"trained_betas": None, "rescale_betas_zero_snr": False, "thresholding": False, "clip_sample_range": 1.0}
_VARIANCES = ("fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log", "learned", "learned_range")
_REMEDY = "give the scheduler configuration that the net was trained with: DDPMScheduler's or DDIMScheduler's"


def noise_schedule(config: Mapping[str, Any], path: str) -> NoiseSchedule:
    """The schedule that `config` (of the file `path`) describes; absent values are diffusers' defaults.

    Raises:
        InputError: not a variance-preserving schedule with fixed betas, or values out of range.
    """
    refuse_scheduler(config, path)
    if "beta_schedule" not in config:
        kind = config.get("_class_name", "the scheduler")
        raise InputError(f"{path}: {kind} has no beta_schedule, so it is no DDPM noise schedule", _REMEDY)
    for name, usual in _NOT_YET.items():
        if config.get(name, usual) != usual:
            raise InputError(f"{path}: {name} = {config[name]} is not supported yet", _REMEDY)
    known = {name: config[name] for name in NoiseSchedule.__dataclass_fields__ if name in config}
    schedule = NoiseSchedule(**known)
    if not _is_sound(schedule):
        raise InputError(f"{path} describes no usable noise schedule: {known}", _REMEDY)
    return schedule


def _is_sound(schedule: NoiseSchedule) -> bool:
    steps, start, end = schedule.num_train_timesteps, schedule.beta_start, schedule.beta_end
    numbers = isinstance(steps, int) and isinstance(start, float | int) and isinstance(end, float | int)
    if not numbers or schedule.beta_schedule not in _BETAS or schedule.prediction_type not in _PREDICTIONS:
        return False
    return schedule.variance_type in _VARIANCES and steps > 0 and 0 < start <= end < 1
