"""A file's own betas as a noise schedule: by the name of the rule that makes exactly these, else one by one.

The trainers of CompVis/latent-diffusion and of lucidrains keep the betas beside the weights, as float32.
"""

from dataclasses import replace

from diffusers import DDPMScheduler
from torch import Tensor

from ptq_export.checkpoints.fit import require_plain
from ptq_export.denoiser import NoiseSchedule
from ptq_export.errors import InputError

__all__ = ["schedule_of_betas"]

_RULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
_EQUAL = 1e-6
_MOST = 100_000


def schedule_of_betas(betas: Tensor, rest: NoiseSchedule, path: str) -> NoiseSchedule:
    """`rest` with T and the betas `[T]` of a file: beta_start and beta_end are the first and the last, to six digits.

    Raises:
        InputError: they are no betas: not one row of floats between 0 and 1.
    """
    require_plain("betas", betas, path)
    values = betas.detach().double()
    if values.dim() != 1 or not 0 < len(values) <= _MOST or not bool(((values > 0) & (values < 1)).all()):
        cause = f"{path}: its betas {list(betas.shape)} are no noise schedule: T numbers between 0 and 1"
        raise InputError(cause, "give the betas with --scheduler-config")
    ends = [float(f"{float(value):.6g}") for value in (values[0], values[-1])]
    base = replace(rest, num_train_timesteps=len(values), trained_betas=None)
    for rule in _RULES:
        named = replace(base, beta_schedule=rule)
        named = named if rule == "squaredcos_cap_v2" else replace(named, beta_start=ends[0], beta_end=ends[1])
        if bool(((_betas(named) - values).abs() <= _EQUAL * values).all()):
            return named
    return replace(base, trained_betas=tuple(values.tolist()))


def _betas(schedule: NoiseSchedule) -> Tensor:
    ends = {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end}
    made = DDPMScheduler(schedule.num_train_timesteps, beta_schedule=schedule.beta_schedule, **ends)
    betas: Tensor = made.betas
    return betas.double()
