import json

import numpy as np
import pytest

from ptq_export.benchmarks.timing.stats import MIN_ROUNDS, Interval, Latency, compare, judge, median_speedup, student_95


def noisy(median_ms: float, spread: float, rounds: int = 60, seed: int = 0) -> Latency:
    """Normal samples whose interquartile range is `spread` of the median."""
    normal = np.random.default_rng(seed).standard_normal(rounds)
    return Latency.from_samples(np.maximum(median_ms * (1 + normal * spread / 1.349), 1e-3))


def test_percentiles_of_known_samples() -> None:
    latency = Latency.from_samples(range(101))
    assert (latency.n, latency.mean_ms, latency.median_ms, latency.min_ms) == (101, 50, 50, 0)
    assert (latency.p90_ms, latency.p95_ms, latency.p99_ms) == (90, 95, 99)
    assert latency.spread == 1.0


def test_json_keeps_every_raw_sample() -> None:
    entry = Latency.from_samples([2.0, 1.0, 3.0]).to_json()
    assert entry["raw_ms"] == [2.0, 1.0, 3.0]
    assert set(entry) == {"n", "mean_ms", "median_ms", "p90_ms", "p95_ms", "p99_ms", "min_ms", "raw_ms"}


def test_latency_without_samples_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Latency.from_samples([])


def test_speedup_is_the_ratio_of_the_medians() -> None:
    comparison = compare(Latency.from_samples([1.0, 2.0, 30.0]), Latency.from_samples([4.0, 5.0, 6.0]))
    assert comparison.speedup == 2.5


def test_rounds_must_pair() -> None:
    with pytest.raises(ValueError, match="2 rounds cannot be paired with 1"):
        compare(Latency.from_samples([1, 2]), Latency.from_samples([1]))


def test_quiet_samples_are_valid() -> None:
    verdict = judge({"int8": noisy(50, 0.02), "fp32": noisy(100, 0.02, seed=1)}).to_json()
    assert (verdict["valid"], verdict["reason"]) == (True, "")
    assert verdict["speedup"]["fp32"] == pytest.approx(2, rel=0.01)
    spread = verdict["speedup_spread"]["fp32"]
    assert spread["p25"] < verdict["speedup"]["fp32"] < spread["p75"]


def test_disturbances_common_to_a_round_do_not_widen_the_margin() -> None:
    common = np.array(noisy(1, 0.2).raw_ms)
    verdict = judge({"int8": Latency.from_samples(50 * common), "fp32": Latency.from_samples(100 * common)})
    assert verdict.valid
    assert verdict.comparisons["fp32"].margin < 1e-9


@pytest.mark.parametrize(
    ("candidate", "baseline", "reason"),
    [
        pytest.param(noisy(50, 0.01), noisy(100, 0.4, seed=1), "fp32: half of the samples", id="spread"),
        pytest.param(noisy(50, 0.2, 20), noisy(100, 0.2, 20, seed=1), "is known to ±", id="margin"),
        pytest.param(noisy(50, 0.01, MIN_ROUNDS - 1), noisy(100, 0.01, MIN_ROUNDS - 1), "only 9 rounds", id="rounds"),
    ],
)
def test_noise_is_invalid_and_says_why(candidate: Latency, baseline: Latency, reason: str) -> None:
    verdict = judge({"int8": candidate, "fp32": baseline}).to_json()
    assert not verdict["valid"]
    assert reason in verdict["reason"]
    json.dumps(verdict, allow_nan=False)


def test_a_machine_that_throttles_half_way_is_invalid() -> None:
    candidate = Latency.from_samples([*noisy(50, 0.01, 30).raw_ms, *noisy(58, 0.01, 30).raw_ms])
    verdict = judge({"int8": candidate, "fp32": noisy(100, 0.01, seed=1)})
    assert [reason for reason in verdict.reasons if "moved by 14%" in reason] == list(verdict.reasons)


def test_nineteen_of_twenty_quiet_runs_are_valid() -> None:
    runs = [judge({"int8": noisy(50, 0.1, seed=2 * i), "fp32": noisy(99, 0.1, seed=2 * i + 1)}) for i in range(200)]
    assert sum(run.valid for run in runs) >= 190


def test_the_median_speedup_s_interval_is_the_sign_test_s() -> None:
    """Of 20 ratios it runs from the 6th to the 15th: 95.9 % by the binomial distribution."""
    baseline = Latency.from_samples(range(1, 21))
    assert median_speedup(Latency.from_samples([1.0] * 20), baseline) == Interval(6, 10.5, 15)


def test_a_minority_of_interrupted_rounds_leaves_the_median_speedup_alone() -> None:
    before, after = [10.0 + 0.01 * (i % 7) for i in range(60)], [9.0 + 0.01 * (i % 5) for i in range(60)]
    for i in range(0, 60, 3):
        (before if i % 2 else after)[i] += 40
    speedup = median_speedup(Latency.from_samples(after), Latency.from_samples(before))
    assert speedup.low > 1.1 and speedup.high < 1.13


def test_median_speedup_pairs_rounds() -> None:
    with pytest.raises(ValueError, match="2 rounds cannot be paired with 3"):
        median_speedup(Latency.from_samples([1, 2]), Latency.from_samples([1, 2, 3]))


def test_students_quantile_falls_towards_the_normal_one() -> None:
    found = [student_95(samples) for samples in range(2, 200)]
    assert found == sorted(found, reverse=True)
    assert (found[0], found[9]) == (12.71, 2.23)
    assert student_95(31) == pytest.approx(2.042, abs=0.01) and student_95(121) == pytest.approx(1.98, abs=0.01)
