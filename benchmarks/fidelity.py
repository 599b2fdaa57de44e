"""How far a candidate's prediction is from the reference's, per time-step, on held-out pairs.

What is predicted (eps, v, x_0, a flow's velocity) is called eps below.

Three figures per time-step t, over the pairs x_t of a full-precision trajectory:

    SQNR       10 log10( sum eps^2 / sum (eps - eps')^2 )
    bias       mean(eps' - eps) / rms(eps)
    step error |x'_{t-1} - x_{t-1}| / |x_{t-1}|,  both from the same x_t by one update of the S-step loop

Near t = 0 the eps of a clean image is small and its SQNR collapses for every method; the step error then says that
the sample hardly moves.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ptq_export.benchmarks.held_out import BATCH, HeldOut
from ptq_export.denoiser import NoiseSchedule
from ptq_export.guidance import under
from ptq_export.pairs import Pairs
from ptq_export.sampling import EpsModel, eps_of
from ptq_export.schedulers import make_scheduler

__all__ = ["Curve", "finite_db", "sqnr_db", "sqnr_gap_db", "sqnr_per_timestep", "step_error"]

DB_LIMIT = 150.0  # float32 resolves 144 dB


@dataclass(frozen=True)
class Curve:
    """A candidate's errors over `timesteps`; `signal` and `noise` are energies per pair, float64 `[T, N]`."""

    timesteps: tuple[float, ...]
    signal: Tensor
    noise: Tensor
    bias: tuple[float, ...]
    step_error: tuple[float, ...]

    @property
    def sqnr_db(self) -> list[float]:
        """Infinite where the candidate is equal, be the signal zero too."""
        ratio_db = _energy_ratio_db(self.signal, self.noise)[0]
        exact = (self.noise.sum(1) == 0).tolist()
        return [math.inf if equal else value for equal, value in zip(exact, ratio_db, strict=True)]

    @property
    def stderr_db(self) -> list[float]:
        """Standard error of each SQNR over the pairs."""
        return _energy_ratio_db(self.signal, self.noise)[1]

    def to_json(self) -> dict[str, Any]:
        """An entry of `curves` in `fidelity.json`."""
        return {
            "sqnr_db": [finite_db(value) for value in self.sqnr_db],
            "sqnr_stderr_db": [round(value, 4) for value in self.stderr_db],
            "bias": [round(value, 8) for value in self.bias],
            "step_error": [round(value, 8) for value in self.step_error],
        }


def sqnr_db(reference: Tensor, candidate: Tensor) -> float:
    """Signal to quantisation noise ratio of two tensors of one shape; infinite when they are equal."""
    signal = reference.double().square().sum().item()
    noise = (reference.double() - candidate.double()).square().sum().item()
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def finite_db(value: float) -> float:
    """A decibel value as JSON can hold it: +150 dB where float32 sees no difference, -150 dB for no likeness or NaN."""
    if math.isnan(value):
        return -DB_LIMIT
    return round(min(max(value, -DB_LIMIT), DB_LIMIT), 4)


def sqnr_gap_db(first: Curve, second: Curve) -> list[tuple[float, float]]:
    """Per time-step, how many dB `first` is above `second`, and the standard error of that gap.

    Both met the same pairs, so the spread that they share cancels: this error is smaller than the curves' own.
    """
    gaps, errors = _energy_ratio_db(second.noise, first.noise)
    return list(zip(gaps, errors, strict=True))


@torch.no_grad()
def sqnr_per_timestep(
    reference: EpsModel,
    candidates: Mapping[str, EpsModel],
    held_out: HeldOut,
    progress: Callable[[float], None] | None = None,
) -> dict[str, Curve]:
    """The curve of every candidate on `held_out`, which has two samples per time-step or more; where it has a guidance,
    of the guided prediction."""
    rows: dict[str, list[_Row]] = {name: [] for name in candidates}
    for index, (t, sample) in enumerate(held_out.pairs.items()):
        pairs = Pairs(sample, held_out.schedule.timesteps([t] * len(sample)), held_out.conditions)
        eps = _eps(under(held_out.guidance, reference), pairs)
        for name, candidate in candidates.items():
            found = _eps(under(held_out.guidance, candidate), pairs)
            rows[name].append(_row(eps, found, sample, t, held_out))
        if progress is not None:
            progress((index + 1) / len(held_out.pairs))
    return {name: _curve(tuple(held_out.pairs), values) for name, values in rows.items()}


def step_error(
    reference_eps: Tensor, candidate_eps: Tensor, sample: Tensor, timestep: float, schedule: NoiseSchedule, steps: int
) -> float:
    """The error that the candidate's eps adds to x_{t-1} by one update of `sample`, relative to |x_{t-1}|."""
    scheduler = make_scheduler(schedule)

    def previous(eps: Tensor) -> Tensor:
        scheduler.set_timesteps(steps)  # anew: some count their steps
        made: Tensor = scheduler.step(eps, timestep, sample, return_dict=False)[0]
        return made.double()

    exact, moved = previous(reference_eps), previous(candidate_eps)
    return float((moved - exact).norm() / exact.norm())


@dataclass(frozen=True)
class _Row:
    signal: Tensor
    noise: Tensor
    bias: float
    step_error: float


def _row(eps: Tensor, other: Tensor, sample: Tensor, timestep: float, held_out: HeldOut) -> _Row:
    exact, error = eps.double().flatten(1), (other.double() - eps.double()).flatten(1)
    bias = (error.mean() / exact.square().mean().sqrt()).item()
    moved = step_error(eps, other, sample, timestep, held_out.schedule, held_out.steps)
    return _Row(exact.square().sum(1), error.square().sum(1), bias, moved)


def _curve(timesteps: tuple[float, ...], rows: Sequence[_Row]) -> Curve:
    signal, noise = torch.stack([row.signal for row in rows]), torch.stack([row.noise for row in rows])
    return Curve(timesteps, signal, noise, tuple(row.bias for row in rows), tuple(row.step_error for row in rows))


def _eps(model: EpsModel, pairs: Pairs) -> Tensor:
    return torch.cat([eps_of(batch.through(model), batch.sample) for batch in pairs.batches(BATCH)])


def _energy_ratio_db(above: Tensor, below: Tensor) -> tuple[list[float], list[float]]:
    """10 log10(sum above / sum below) per row of `[T, N]`, and its standard error by the delta method."""
    count = above.shape[1]
    total, other = above.sum(1), below.sum(1)
    ratio_db = torch.where(total == other, 0.0, 10 * torch.log10(total / other))
    deviation = above / above.mean(1, keepdim=True) - below / below.mean(1, keepdim=True)
    stderr_db = 10 / math.log(10) * (deviation.square().sum(1) / (count * (count - 1))).sqrt()
    return ratio_db.tolist(), stderr_db.nan_to_num(0.0).tolist()
