"""Latency as a value with its raw samples, and the VALID / INVALID verdict on an interleaved comparison.

A verdict of VALID promises: run it again and the speed-up comes out the same within about five per cent. The checks:

1. Rounds. Below `MIN_ROUNDS` there is no 90th percentile to speak of (Google Benchmark asks for nine repetitions
   before it compares; MLPerf's loadgen calls a run with too few queries INVALID and says why).
2. Spread of each candidate. When the middle half of its samples spans more than `MAX_SPREAD` of the median, the
   machine was busy with something else. Quartiles rather than trtexec's coefficient of variation (it warns above
   1 %): on a CPU one descheduled call would decide the latter, and it does not move a median.
3. Margin of the speed-up. The standard error of a median is about 0.93 IQR / sqrt(n), so the 95 % interval of the
   per-round ratio's median is +-1.82 IQR / sqrt(n). Disturbances that hit both neighbours in a round cancel here.
4. Drift. Samples of a throttling or warming machine are not independent, which check 3 cannot see. The speed-ups of
   the two halves of a quiet run at the margin's limit differ by less than twice `MAX_MARGIN` in 19 of 20 runs.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "MIN_ROUNDS",
    "Comparison",
    "Interval",
    "Latency",
    "Verdict",
    "compare",
    "judge",
    "median_speedup",
    "student_95",
]

STUDENT_95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23)
"""Student's two-sided 95 % quantile for 1, 2, ... degrees of freedom."""

MIN_ROUNDS = 10
MAX_SPREAD = 0.25
MAX_MARGIN = 0.05
MAX_DRIFT = 2 * MAX_MARGIN


@dataclass(frozen=True)
class Latency:
    """Durations of one candidate in milliseconds, in the order of the rounds."""

    raw_ms: tuple[float, ...]

    @classmethod
    def from_samples(cls, samples_ms: Iterable[float]) -> "Latency":
        """The latency of at least one sample."""
        raw_ms = tuple(float(sample) for sample in samples_ms)
        if not raw_ms:
            raise ValueError("a latency needs at least one sample")
        return cls(raw_ms)

    @property
    def n(self) -> int:
        return len(self.raw_ms)

    @property
    def mean_ms(self) -> float:
        return float(np.mean(self.raw_ms))

    @property
    def median_ms(self) -> float:
        return self.percentile_ms(50)

    @property
    def p90_ms(self) -> float:
        return self.percentile_ms(90)

    @property
    def p95_ms(self) -> float:
        return self.percentile_ms(95)

    @property
    def p99_ms(self) -> float:
        return self.percentile_ms(99)

    @property
    def min_ms(self) -> float:
        return min(self.raw_ms)

    @property
    def spread(self) -> float:
        """Interquartile range as a share of the median."""
        return (self.percentile_ms(75) - self.percentile_ms(25)) / self.median_ms

    def percentile_ms(self, percent: float) -> float:
        """The duration that `percent` of the samples do not exceed, interpolated between samples."""
        return float(np.percentile(self.raw_ms, percent))

    def to_json(self) -> dict[str, Any]:
        """The candidate's entry in `latency.json`."""
        names = ("mean_ms", "median_ms", "p90_ms", "p95_ms", "p99_ms", "min_ms")
        figures = {name: round(getattr(self, name), 6) for name in names}
        return {"n": self.n} | figures | {"raw_ms": [round(sample, 6) for sample in self.raw_ms]}


@dataclass(frozen=True)
class Comparison:
    """Speed-up = median of the baseline / median of the candidate; `p25`, `p75` are quartiles of the per-round ratio.

    `margin` is the half-width of the 95 % interval and `drift` the disagreement of the two halves, both relative.
    """

    speedup: float
    p25: float
    p75: float
    margin: float
    drift: float


@dataclass(frozen=True)
class Verdict:
    """What a run may claim: the comparisons with every baseline, and the reasons (none: VALID) to distrust them."""

    comparisons: Mapping[str, Comparison]
    reasons: tuple[str, ...]

    @property
    def valid(self) -> bool:
        return not self.reasons

    def to_json(self) -> dict[str, Any]:
        """`speedup`, `speedup_spread`, `valid` and `reason` of a step in `latency.json`."""
        items = self.comparisons.items()
        return {
            "speedup": {name: round(each.speedup, 4) for name, each in items},
            "speedup_spread": {
                name: {key: round(getattr(each, key), 4) for key in ("p25", "p75", "margin", "drift")}
                for name, each in items
            },
            "valid": self.valid,
            "reason": "; ".join(self.reasons),
        }


def compare(candidate: Latency, baseline: Latency) -> Comparison:
    """How much faster `candidate` is than `baseline`; sample i of both comes from round i.

    Raises:
        ValueError: the two were not measured in the same rounds.
    """
    if candidate.n != baseline.n:
        raise ValueError(f"{candidate.n} rounds cannot be paired with {baseline.n}")
    ours, theirs = np.array(candidate.raw_ms), np.array(baseline.raw_ms)
    p25, middle, p75 = (float(value) for value in np.percentile(theirs / ours, (25, 50, 75)))
    margin = 1.82 * (p75 - p25) / (middle * np.sqrt(candidate.n))
    return Comparison(_speedup(ours, theirs), p25, p75, float(margin), _drift(ours, theirs))


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % interval."""

    low: float
    middle: float
    high: float


def median_speedup(candidate: Latency, baseline: Latency) -> Interval:
    """Median over the rounds of how much faster `candidate` is, with the interval of the sign test.

    Its ends are the k-th smallest and the k-th largest ratio, k = (n + 1) / 2 - 0.98 sqrt(n): no shape of the noise is
    assumed, so that rounds in which either was interrupted widen it little as long as they are a minority.

    Raises:
        ValueError: the two were not measured in the same rounds.
    """
    if candidate.n != baseline.n:
        raise ValueError(f"{candidate.n} rounds cannot be paired with {baseline.n}")
    ratios = np.sort(np.array(baseline.raw_ms) / np.array(candidate.raw_ms))
    rank = max(1, int((len(ratios) + 1) / 2 - 0.98 * np.sqrt(len(ratios))))
    return Interval(float(ratios[rank - 1]), float(np.median(ratios)), float(ratios[-rank]))


def judge(latencies: Mapping[str, Latency]) -> Verdict:
    """The verdict on interleaved latencies; the first is the candidate, the others are its baselines."""
    candidate, *baselines = latencies
    comparisons = {name: compare(latencies[candidate], latencies[name]) for name in baselines}
    reasons = [*_latency_doubts(latencies), *_comparison_doubts(comparisons)]
    return Verdict(comparisons, tuple(reasons))


def _latency_doubts(latencies: Mapping[str, Latency]) -> Iterator[str]:
    rounds = min(latency.n for latency in latencies.values())
    if rounds < MIN_ROUNDS:
        yield f"only {rounds} rounds (at least {MIN_ROUNDS} are needed)"
    for name, latency in latencies.items():
        if latency.spread > MAX_SPREAD:
            yield f"{name}: half of the samples spread over {latency.spread:.0%} of the median (limit {MAX_SPREAD:.0%})"


def _comparison_doubts(comparisons: Mapping[str, Comparison]) -> Iterator[str]:
    for name, each in comparisons.items():
        if each.margin > MAX_MARGIN:
            yield f"speed-up over {name} is known to ±{each.margin:.0%} only (limit ±{MAX_MARGIN:.0%})"
        if each.drift > MAX_DRIFT:
            yield f"speed-up over {name} moved by {each.drift:.0%} during the run (limit {MAX_DRIFT:.0%})"


def _speedup(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    return float(np.median(theirs) / np.median(ours))


def _drift(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    half = len(ours) // 2
    if half == 0:
        return 0.0
    return abs(_speedup(ours[half:], theirs[half:]) / _speedup(ours[:half], theirs[:half]) - 1)


def student_95(samples: int) -> float:
    """How many standard errors a mean of that many samples (two or more) lies from the truth, at most, in 95 of 100."""
    freedom = samples - 1
    return STUDENT_95[freedom - 1] if freedom <= len(STUDENT_95) else 1.96 + 2.7 / freedom
