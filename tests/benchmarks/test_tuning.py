"""What tuning decides, given the samples: clear wins, ties, losses, the floor, the budget, and gains that vanish."""

import numpy as np
import pytest

from ptq_export.benchmarks.timing.clock import Protocol
from ptq_export.benchmarks.timing.stats import Latency, median_speedup
from ptq_export.pipeline.tuning.race import BRIEF, Candidate, Choice, Limits, Outcome, Race, gain, search

START = Choice(split_shortcut=False)


def samples(median_ms: float, spread: float, seed: int, rounds: int = 40) -> Latency:
    noise = np.random.default_rng(seed).normal(1, spread, rounds)
    return Latency.from_samples(median_ms * noise)


@pytest.mark.parametrize(
    ("before_ms", "after_ms", "spread", "found"),
    [(10, 9, 0.01, "faster"), (10, 11, 0.01, "slower"), (10, 10, 0.01, "even"), (10, 9.8, 0.2, "even")],
    ids=["win", "loss", "tie", "win within the noise"],
)
def test_a_gain_counts_beyond_the_noise_alone(before_ms: float, after_ms: float, spread: float, found: str) -> None:
    before, after = samples(before_ms, spread, 0), samples(after_ms, spread, 1)
    assert gain(median_speedup(after, before)) == found


class Bench:
    """Steps of 10 ms that each float layer changes by `gains_ms`; a trial takes a second of its own clock.

    `luck_ms` is what every brief race flatters the new choice by; `costs_db` is what a choice costs in SQNR.
    """

    def __init__(self, gains_ms: dict[str, float], luck_ms: float = 0.0, split_db: float = 0.0) -> None:
        self.gains_ms, self.luck_ms, self.split_db = gains_ms, luck_ms, split_db
        self.now = 0.0
        self.races: list[tuple[Choice, Choice]] = []

    def clock(self) -> float:
        return self.now

    def changed(self, choice: Choice, candidate: Candidate) -> Choice | None:
        if not candidate.layers:
            return Choice(not choice.split_shortcut, choice.float_layers)
        layers = choice.float_layers | candidate.layers
        return None if layers == choice.float_layers else Choice(choice.split_shortcut, layers)

    def prepare(self, choice: Choice) -> None:
        self.now += 100 * choice.split_shortcut

    def race(self, before: Choice, after: Choice, rounds: Protocol) -> Race:
        self.now += 1
        self.races.append((before, after))
        luck_ms, seed = self.luck_ms * (rounds == BRIEF), len(self.races)
        return Race(
            samples(self.step_ms(before), 0.005, seed), samples(self.step_ms(after) - luck_ms, 0.005, 1000 + seed)
        )

    def step_ms(self, choice: Choice) -> float:
        return 10 - sum(self.gains_ms[name] for name in choice.float_layers) - 2 * choice.split_shortcut

    def sqnr_db(self, choice: Choice) -> float:
        return 30 + len(choice.float_layers) - self.split_db * choice.split_shortcut


def candidates(*groups: str) -> list[Candidate]:
    """`ab` is the layers a and b; the empty group is the other form of the shortcuts."""
    return [Candidate(group or "shortcuts", frozenset(group), 0.0) for group in groups]


def searched(bench: Bench, *groups: str, seconds: float = 1000, loss_db: float = 0.1) -> Outcome:
    return search(START, candidates(*groups), bench, Limits(seconds, loss_db), lambda _: None, bench.clock)


def test_winners_add_up_and_losers_go() -> None:
    bench = Bench({"a": 1.0, "b": -1.0, "c": 0.5, "d": 0.0})
    outcome = searched(bench, "a", "b", "c", "d")
    assert outcome.chosen == Choice(False, frozenset("ac"))
    assert [(trial.kept, trial.why) for trial in outcome.trials] == [
        (True, "faster, measured twice"),
        (False, "slower"),
        (True, "faster, measured twice"),
        (False, "no faster beyond the noise"),
    ]
    assert outcome.trials[2].race.before.median_ms == pytest.approx(9, abs=0.05), "against the best, not the first"
    assert outcome.total is not None and outcome.total.speedup.middle == pytest.approx(10 / 8.5, rel=0.01)
    assert (outcome.untuned_db, outcome.tuned_db) == (30, 32)


def test_luck_in_one_race_is_not_enough() -> None:
    bench = Bench({"a": -0.1}, luck_ms=1.0)
    outcome = searched(bench, "a")
    assert outcome.chosen == START and outcome.total is None
    assert outcome.trials[0].why == "faster at first, not when measured again"


def test_what_a_kept_group_holds_is_not_tried_again() -> None:
    outcome = searched(Bench({"a": 1.0, "b": 1.0}), "ab", "a", "b")
    assert [trial.candidate.title for trial in outcome.trials] == ["ab"]
    assert outcome.not_reached == ()


@pytest.mark.parametrize(("split_db", "kept"), [(0.05, True), (0.2, False)], ids=["within", "past"])
def test_speed_is_not_bought_with_more_db_than_allowed(split_db: float, kept: bool) -> None:
    outcome = searched(Bench({}, split_db=split_db), "")
    assert (outcome.chosen.split_shortcut, outcome.trials[0].kept) == (kept, kept)
    assert outcome.trials[0].sqnr_db == 30 - split_db
    assert kept or outcome.trials[0].why == "faster, but 29.80 dB are below the floor of 29.90 dB"


def test_the_allowed_loss_is_the_sum_s_and_not_each_candidate_s() -> None:
    """The float layer pays for the shortcut: what counts is where the choice as a whole stands."""
    assert searched(Bench({"a": 1.0}, split_db=1.05), "a", "").chosen == Choice(True, frozenset("a"))
    assert searched(Bench({"a": 1.0}, split_db=1.2), "a", "").chosen == Choice(False, frozenset("a"))


def test_time_that_is_up_ends_the_trials_and_names_the_rest() -> None:
    outcome = searched(Bench(dict.fromkeys("abcd", -1.0)), *"abcd", seconds=2)
    assert [trial.candidate.title for trial in outcome.trials] == ["a", "b"]
    assert [candidate.title for candidate in outcome.not_reached] == ["c", "d"]
    assert outcome.seconds == 2


def test_preparing_the_other_form_takes_none_of_the_budget() -> None:
    outcome = searched(Bench({"a": 1.0}), "", "a", seconds=50)
    assert len(outcome.trials) == 2 and outcome.seconds == 4


def test_gains_that_vanish_in_sum_are_given_back() -> None:
    class Fading(Bench):
        def race(self, before: Choice, after: Choice, rounds: Protocol) -> Race:
            if before == START and len(after.float_layers) == 2:
                return Race(samples(10, 0.005, 0), samples(10, 0.005, 1))
            return super().race(before, after, rounds)

    outcome = searched(Fading({"a": 0.5, "b": 0.5}), "a", "b")
    assert outcome.chosen == START and outcome.total is None and outcome.tuned_db == 30
    assert {(trial.kept, trial.why.partition(":")[0]) for trial in outcome.trials} == {(False, "given back")}
