"""x_0 as the network guesses it in the middle of a sampling loop: what previews show."""

from torch import Tensor

from ptq_export.denoiser import NoiseSchedule
from ptq_export.sampling import Step, eps_of
from ptq_export.schedulers import alphas_cumprod

__all__ = ["CleanEstimate"]

LEAST_ALPHA = 1e-6
"""At zero terminal SNR nothing of x_0 is in x_T, and eps says nothing of it."""


class CleanEstimate:
    """The guess under one schedule, from what a step saw and what the network made of it."""

    def __init__(self, schedule: NoiseSchedule) -> None:
        self.schedule = schedule
        self._alphas = None if schedule.is_flow else alphas_cumprod(schedule).clamp(min=LEAST_ALPHA)

    def __call__(self, step: Step) -> Tensor:
        """x_0 `[N, C, ...]`, in the range of final samples where the schedule has one."""
        clean, limits = self._free(step), self.schedule.sample_range
        return clean if limits is None else clean.clamp(*limits)

    def _free(self, step: Step) -> Tensor:
        x, predicted = step.sample, eps_of(step.output, step.sample)
        if self._alphas is None:
            return x - step.timestep / self.schedule.num_train_timesteps * predicted
        if self.schedule.prediction_type == "sample":
            return predicted
        alpha = self._alphas[int(step.timestep)]
        signal, noise = alpha.sqrt(), (1 - alpha).sqrt()
        if self.schedule.prediction_type == "v_prediction":
            return signal * x - noise * predicted
        return (x - noise * predicted) / signal
