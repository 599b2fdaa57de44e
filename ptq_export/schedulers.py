"""Schedulers by name: diffusers' own, set as a checkpoint's scheduler_config.json or its authors' code says.

A family's authors may keep other time-steps than diffusers does. Their loop is diffusers' scheduler over the kept
time-steps alone, with the betas between them taken again from their alphas (arXiv:2102.09672, equation 19): so do
they themselves, and it is exact for any choice, where diffusers' DDIM knows one stride, T // S.
"""

from collections.abc import Callable
from inspect import signature
from itertools import accumulate, repeat
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from torch import Tensor

from ptq_export.denoiser import Convention, NoiseSchedule
from ptq_export.errors import InputError
from ptq_export.lookup import lookup

__all__ = [
    "SAMPLERS",
    "FlowEuler",
    "Respaced",
    "WholeEuler",
    "allowed_steps",
    "alphas_cumprod",
    "check_steps",
    "make_scheduler",
    "sampler_notes",
    "visited_timesteps",
]


class WholeEuler(EulerDiscreteScheduler):  # type: ignore[misc]
    """Euler at whole time-steps, which are what the network knows, with the sigmas that belong to them.

    Sigmas that a configuration chooses itself (Karras and kin) stay; the loop rounds their time-steps.
    """

    def set_timesteps(self, num_inference_steps: int, device: Any = None) -> None:
        """As diffusers', then rounded."""
        super().set_timesteps(num_inference_steps, device)
        self.rounded = not torch.equal(self.timesteps, self.timesteps.round())
        chosen = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas")
        if not any(self.config[name] for name in chosen) and self.config["interpolation_type"] == "linear":
            super().set_timesteps(device=device, timesteps=self.timesteps.round().tolist())


class FlowEuler(FlowMatchEulerDiscreteScheduler):  # type: ignore[misc]
    """Euler along a flow's velocity, at continuous time-steps 0..T, with what the loop asks of every scheduler."""

    init_noise_sigma = 1.0

    def scale_model_input(self, sample: Tensor, timestep: float) -> Tensor:
        """The sample as it is."""
        return sample


SAMPLERS: dict[str, type] = {
    "ddim": DDIMScheduler,
    "ddpm": DDPMScheduler,
    "dpm-solver++": DPMSolverMultistepScheduler,
    "euler": WholeEuler,
    "flow-euler": FlowEuler,
    "pndm": PNDMScheduler,
    "unipc": UniPCMultistepScheduler,
}
_FORWARD = ("num_train_timesteps", "beta_schedule", "beta_start", "beta_end", "trained_betas", "rescale_betas_zero_snr")
_REVERSE = ("prediction_type", "clip_sample", "clip_sample_range", "variance_type")
_BY_TIME = ("dpm-solver++", "unipc")
_DDPM_ONLY = ("sigmoid", "laplace")
_MOST_SKIPPED = 1 / 20  # of T, beyond the stride: noise of a time-step this far down is no longer that of T
_FAULTS = (ValueError, TypeError, NotImplementedError, ImportError, LookupError)


def make_scheduler(schedule: NoiseSchedule, sampler: str | None = None) -> Any:
    """A scheduler for `schedule` with diffusers' interface; `sampler` is one of `SAMPLERS`, by default the schedule's.

    Raises:
        InputError: no such sampler, or one that cannot follow this schedule.
    """
    sampler = sampler or schedule.sampler
    kind = lookup("sampler", sampler, SAMPLERS)
    _require_suited(schedule, sampler)
    values = {**schedule.settings, **{name: getattr(schedule, name) for name in (*_FORWARD, *_REVERSE)}}
    if schedule.beta_schedule in _DDPM_ONLY and kind is not DDPMScheduler:
        values |= {"trained_betas": _forward(schedule, rescaled=False).betas.tolist(), "beta_schedule": "linear"}
    if kind is DPMSolverMultistepScheduler:
        values["variance_type"] = None
    known = signature(kind).parameters
    try:
        if convention := schedule.conventions.get(sampler):
            return Respaced(kind, schedule, convention)
        return kind(**{name: value for name, value in values.items() if name in known})
    except _FAULTS as error:
        remedy = "mend the checkpoint's schedule (scheduler_config.json), or take another --sampler"
        raise InputError(f"{sampler} cannot follow this checkpoint's schedule: {error}", remedy) from error


class Respaced:
    """DDIM or DDPM over the time-steps that `convention` keeps; `timesteps` are those of training.

    What it offers is what the loop asks of a diffusers scheduler: `set_timesteps`, `scale_model_input`, `step`.
    """

    init_noise_sigma = 1.0

    def __init__(self, kind: type, schedule: NoiseSchedule, convention: Convention) -> None:
        self.kind = kind
        self.schedule = schedule
        self.convention = convention
        forward = _forward(schedule, schedule.rescale_betas_zero_snr)
        self.betas, self.alphas_cumprod = forward.betas, forward.alphas_cumprod
        self.timesteps = torch.arange(schedule.num_train_timesteps).flip(0)
        self._steps = 0

    def set_timesteps(self, steps: int) -> None:
        """Keep about `steps` of the time-steps, as the authors' code does."""
        if steps == self._steps:
            return
        kept = KEPT[self.convention.timesteps](self.schedule.num_train_timesteps, steps)
        alphas = self.alphas_cumprod.double()[kept]
        betas = 1 - alphas / torch.cat([torch.ones(1, dtype=torch.float64), alphas[:-1]])
        settings = {
            "num_train_timesteps": len(kept),
            "trained_betas": betas.tolist(),
            "clip_sample": self.convention.clip_sample,
            "prediction_type": self.schedule.prediction_type,
        }
        if self.kind is DDPMScheduler:
            settings["variance_type"] = self.schedule.variance_type
        self._inner = self.kind(**settings)
        self._inner.set_timesteps(len(kept))
        self._index = {t: index for index, t in enumerate(kept)}
        self.timesteps = torch.tensor(kept).flip(0)
        self._steps = steps

    def scale_model_input(self, sample: Tensor, timestep: int) -> Tensor:
        """The sample as it is: the networks are trained on x_t itself."""
        return sample

    def step(
        self,
        output: Tensor,
        timestep: int,
        sample: Tensor,
        generator: torch.Generator | None = None,
        return_dict: bool = True,
    ) -> Any:
        """x_{t-1}, as diffusers' scheduler of this kind gives it."""
        options: dict[str, Any] = {"generator": generator, "return_dict": return_dict}
        if self.kind is DDIMScheduler:
            options["use_clipped_model_output"] = self.convention.clipped_eps
        return self._inner.step(output, self._index[int(timestep)], sample, **options)

    def add_noise(self, images: Tensor, noise: Tensor, timestep: Tensor) -> Tensor:
        """x_t of `images` `[N, ...]`: q(x_t | x_0) at time-steps `[N]`."""
        kept: Tensor = self.alphas_cumprod[timestep].reshape(-1, *[1] * (images.ndim - 1))
        return kept.sqrt() * images + (1 - kept).sqrt() * noise


def _floor_stride(total: int, steps: int) -> list[int]:
    """0, T // S, 2 (T // S), ...: more than S of them where S does not divide T (ermongroup/ddim)."""
    return list(range(0, total, total // steps))


def _exact_stride(total: int, steps: int) -> list[int]:
    """S time-steps at the least integer stride that gives them (OpenAI's `ddimN`)."""
    kept = list(range(0, total, -(-total // steps)))
    if len(kept) != steps:
        raise ValueError(f"no integer stride keeps exactly {steps} of {total} time-steps")
    return kept


def _inclusive(total: int, steps: int) -> list[int]:
    """S time-steps from 0 to T - 1 inclusive, at a fractional stride, rounded (OpenAI's `N`)."""
    stride = (total - 1) / (steps - 1) if steps > 1 else 0.0
    return [round(time) for time in accumulate(repeat(stride, steps - 1), initial=0.0)]


def _downwards(total: int, steps: int) -> list[int]:
    """S time-steps that end with T - 1, at a fractional stride, cut to whole ones (lucidrains)."""
    kept: list[int] = torch.linspace(-1, total - 1, steps + 1).int().tolist()
    return kept[1:]


KEPT: dict[str, Callable[[int, int], list[int]]] = {
    "downwards": _downwards,
    "exact-stride": _exact_stride,
    "floor-stride": _floor_stride,
    "inclusive": _inclusive,
}


def alphas_cumprod(schedule: NoiseSchedule) -> Tensor:
    """The share of x_0's variance in x_t, `[T]`."""
    values: Tensor = _forward(schedule, schedule.rescale_betas_zero_snr).alphas_cumprod
    return values


def _forward(schedule: NoiseSchedule, rescaled: bool) -> Any:
    values = {name: getattr(schedule, name) for name in _FORWARD}
    return DDPMScheduler(**{**values, "rescale_betas_zero_snr": rescaled})


def _require_suited(schedule: NoiseSchedule, sampler: str) -> None:
    if schedule.is_flow != (SAMPLERS[sampler] is FlowEuler):
        what = "a flow" if schedule.is_flow else "a diffusion with betas"
        raise InputError(f"{sampler} cannot sample {what}", f"take --sampler {schedule.sampler}")
    if sampler != "pndm":
        return
    if schedule.prediction_type == "sample":
        raise InputError("pndm cannot sample a net that predicts x_0", "take another --sampler")
    if schedule.rescale_betas_zero_snr:
        raise InputError(
            "pndm cannot begin where the signal is zero (rescale_betas_zero_snr)", "take another --sampler"
        )


def visited_timesteps(schedule: NoiseSchedule, steps: int, sampler: str | None = None) -> list[float]:
    """The time-steps at which `steps` steps of `sampler` call the network, in their order: whole, but for a flow.

    Raises:
        InputError: the sampler cannot take that many steps; the message has the nearest numbers that it can.
    """
    check_steps(schedule, steps, sampler)
    scheduler = make_scheduler(schedule, sampler)
    scheduler.set_timesteps(steps)
    return _times(scheduler)


def allowed_steps(schedule: NoiseSchedule, steps: int, sampler: str | None = None) -> int:
    """`steps`, or the next smaller number of steps that `sampler` can take."""
    scheduler, sampler = make_scheduler(schedule, sampler), sampler or schedule.sampler
    within = range(min(steps, schedule.num_train_timesteps), 0, -1)
    return next((count for count in within if not _refusal(scheduler, schedule, count, sampler)), 1)


def check_steps(schedule: NoiseSchedule, steps: int, sampler: str | None = None) -> None:
    """Refuse a number of steps that `sampler` cannot take, or with which it would skip the noisiest time-steps.

    Raises:
        InputError: with the nearest numbers of steps that it can take.
    """
    scheduler, total = make_scheduler(schedule, sampler), schedule.num_train_timesteps
    sampler = sampler or schedule.sampler
    reason = _out_of_reach(scheduler, schedule, steps, sampler)
    too_dense = "" if reason else _too_dense(scheduler, sampler)
    if not reason and not too_dense:
        return
    below, above = range(min(steps - 1, total), 0, -1), range(steps + 1, (steps if too_dense else total) + 1)
    allowed = [(n for n in side if not _refusal(scheduler, schedule, n, sampler)) for side in (below, above)]
    near = ", ".join(str(count) for side in allowed if (count := next(side, None)) is not None)
    remedy = f"nearest that can be taken: {near}" if near else "take another --sampler"
    raise InputError(f"{steps} {sampler} steps of the {total} training steps: {reason or too_dense}", remedy)


def sampler_notes(schedule: NoiseSchedule, steps: int, sampler: str) -> list[str]:
    """What the user should know before `steps` steps of `sampler`: the network called at other times than one expects,
    noise that is not the trained one.

    Raises:
        InputError: the sampler cannot take that many steps.
    """
    times, total = visited_timesteps(schedule, steps, sampler), schedule.num_train_timesteps
    notes = []
    if len(times) != steps:
        notes.append(f"{steps} {sampler} steps call the network {len(times)} times, at t = {times[0]} to {times[-1]}")
    elif total % steps and not schedule.is_flow:
        notes.append(
            f"{steps} steps do not divide {total}: {sampler} takes t = {times[0]}, {times[1]}, ... {times[-1]}"
        )
    scheduler = make_scheduler(schedule, sampler)
    scheduler.set_timesteps(steps)
    if getattr(scheduler, "rounded", False):
        notes.append(f"{sampler}'s fractional time-steps are rounded: the engine knows whole ones")
    if sampler == "ddpm" and schedule.dropped_variance:
        notes.append(
            "the variance that this net learned was dropped from the engine: ddpm adds the fixed_small one instead; "
            "export with --variance keep for samples with its own"
        )
    return notes


def _refusal(scheduler: Any, schedule: NoiseSchedule, steps: int, sampler: str) -> str:
    """Why `scheduler`, which this sets to so many steps, cannot take them; empty if it can."""
    return _out_of_reach(scheduler, schedule, steps, sampler) or _too_dense(scheduler, sampler)


def _out_of_reach(scheduler: Any, schedule: NoiseSchedule, steps: int, sampler: str) -> str:
    """Why `scheduler` cannot be set to so many steps, or would lead elsewhere; empty if it is set to them."""
    total = schedule.num_train_timesteps
    if not 1 <= steps <= total:
        return "there are fewer training steps" if steps > total else "at least one is needed"
    if sampler == "pndm" and steps < 4 and not schedule.settings.get("skip_prk_steps"):
        return "its first three are Runge-Kutta steps, and a fourth must follow"
    try:
        scheduler.set_timesteps(steps)
        times = _times(scheduler)
    except _FAULTS as error:
        return str(error)
    if schedule.is_flow:
        return ""
    if min(times) < 0 or max(times) >= total:
        return f"t = {max(times)} is past the last, {total - 1}" if max(times) >= total else "the last would be t = -1"
    if total - total // steps - times[0] > total * _MOST_SKIPPED:
        return f"the first would be t = {times[0]}, and the noisier ones skipped"
    return ""


def _too_dense(scheduler: Any, sampler: str) -> str:
    """Why the steps to which `scheduler` is set lie too close together; empty if they do not."""
    sigmas, times = getattr(scheduler, "sigmas", None), _times(scheduler)
    if sigmas is not None and not (sigmas.diff() < 0).all():
        return "two of them would be the same"
    if sampler in _BY_TIME and times[:1] == times[1:2]:
        return f"the first two would be t = {times[0]}, and it finds its place by the time"
    return ""


def _times(scheduler: Any) -> list[float]:
    times: Tensor = scheduler.timesteps.double()
    found: list[float] = times.tolist() if isinstance(scheduler, FlowEuler) else times.round().long().tolist()
    return found
