"""How faithful every model is to the FP32 graph, on noise that calibration never used."""

import hashlib
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ptq_export.benchmarks.fid import digit_fid, real_digit_features
from ptq_export.benchmarks.fidelity import finite_db, sqnr_per_timestep
from ptq_export.benchmarks.held_out import HELD_OUT_SEEDS, HeldOut, held_out_noise, held_out_pairs
from ptq_export.benchmarks.peers.subject import Subject
from ptq_export.benchmarks.same_noise import final_samples, psnr_db, value_range
from ptq_export.guidance import under
from ptq_export.pairs import Pairs
from ptq_export.sampling import EpsModel

__all__ = ["STEPS", "Judge", "Score", "margin_db"]

STEPS = 20


@dataclass(frozen=True)
class Score:
    """Of one model: PSNR per sample (none where images mean nothing), SQNR per time-step, digit-FID where there is one.

    The FP32 reference itself has 150 dB everywhere.
    """

    psnr_db: Sequence[float]
    sqnr_db: Sequence[float]
    digit_fid: float | None = None

    @property
    def psnr_mean_db(self) -> float | None:
        return statistics.fmean(self.psnr_db) if self.psnr_db else None

    @property
    def sqnr_median_db(self) -> float:
        return statistics.median(self.sqnr_db)

    def to_json(self) -> dict[str, Any]:
        """`accuracy` of a model in the results."""
        return {
            "psnr_mean_db": None if self.psnr_mean_db is None else round(self.psnr_mean_db, 4),
            "psnr_min_db": min(self.psnr_db, default=None),
            "sqnr_median_db": round(self.sqnr_median_db, 4),
            "sqnr_worst_db": min(self.sqnr_db),
            "sqnr_db": list(self.sqnr_db),
            "digit_fid": None if self.digit_fid is None else round(self.digit_fid, 4),
        }


def margin_db(first: Score, second: Score) -> tuple[float, float]:
    """By how much the mean PSNR of `first` is above that of `second`, and the standard error (same noise, paired).

    Where there is no PSNR, the same of SQNR over the time-steps.
    """
    ours, theirs = (score.psnr_db or score.sqnr_db for score in (first, second))
    gaps = [one - other for one, other in zip(ours, theirs, strict=True)]
    return statistics.fmean(gaps), statistics.stdev(gaps) / math.sqrt(len(gaps))


class Judge:
    """Scores models against one reference, which computes everything once.

    PSNR: final samples of `samples` (two or more) held-out noises after 20 DDIM steps. SQNR: eps at each of these
    steps, on `pairs` other trajectories of the reference.
    """

    def __init__(self, subject: Subject, reference: EpsModel, samples: int, pairs: int) -> None:
        self._subject = subject
        self._reference = _Memory(reference)
        self._conditions = subject.draw(samples, HELD_OUT_SEEDS)
        self._noise = held_out_noise((samples, *subject.sample_shape), seed=0)
        self._held_out = self._trajectories(pairs)
        self._images = self._sampled(self._reference) if subject.is_trained else None

    def score(self, model: EpsModel) -> Score:
        """The score of a model of any batch."""
        curve = sqnr_per_timestep(self._reference, {"model": model}, self._held_out)["model"]
        sqnr = [finite_db(value) for value in curve.sqnr_db]
        if self._images is None:
            return Score([], sqnr)
        images = self._sampled(model)
        low, high = value_range(self._subject.schedule.sample_range, self._images)
        psnr = [finite_db(value) for value in psnr_db(self._images, images, high - low)]
        fid = digit_fid(real_digit_features(), images) if self._subject.draws_digits else None
        return Score(psnr, sqnr, fid)

    def _trajectories(self, count: int) -> HeldOut:
        conditions = self._subject.draw(count, HELD_OUT_SEEDS + 1)
        schedule, shape = self._subject.schedule, self._subject.sample_shape
        return held_out_pairs(
            self._reference, schedule, shape, STEPS, STEPS, count, 1, conditions, self._subject.guidance
        )

    def _sampled(self, model: EpsModel) -> Tensor:
        guided = under(self._subject.guidance, model)
        return final_samples(guided, self._subject.schedule, self._noise, STEPS, self._conditions)


class _Memory:
    """A model that computes no batch twice."""

    def __init__(self, model: EpsModel) -> None:
        self._model = model
        self._known: dict[bytes, Tensor] = {}

    def __call__(self, sample: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        feeds = sorted(Pairs(sample, timestep, conditions).feeds.items())
        key = hashlib.blake2b(b"".join(value.numpy().tobytes() for _, value in feeds)).digest()
        if key not in self._known:
            self._known[key] = self._model(sample, timestep, **conditions)
        return self._known[key]
