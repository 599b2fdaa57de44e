"""Which choices make a step faster on the target itself: candidates one by one, each timed against the best so far.

A choice is kept when

1. whole steps of both engines, in interleaved rounds, say that it is faster beyond the noise: the 95 % interval of the
   median speed-up (`stats.median_speedup`) lies above 1;
2. a second, longer measurement, of engines that are built again, says so too. Of candidates that gain nothing, three in
   a hundred pass the first by its interval alone, and more by the luck of a build; the gain that is reported is the
   second's, which was not chosen for being large;
3. the median SQNR of eps stays above a floor.

At the end the choice is timed against what it began with, and given back if the sum of its gains is none.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from ptq_export.benchmarks.timing.clock import Protocol as Rounds
from ptq_export.benchmarks.timing.stats import Interval, Latency, median_speedup

__all__ = ["Candidate", "Choice", "Limits", "Outcome", "Race", "Trial", "Workbench", "gain", "search"]

BRIEF = Rounds(warmup=3, min_rounds=20, min_seconds=1.0)
THOROUGH = Rounds(warmup=3, min_rounds=40, min_seconds=3.0)


@dataclass(frozen=True)
class Choice:
    """How the network is quantised: the form of its shortcuts over a concat, the layers that it has in float, and the
    placements of quantisers that differ from the scheme's (`nn.scheme.PLACEMENTS`)."""

    split_shortcut: bool
    float_layers: frozenset[str] = frozenset()
    placements: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Candidate:
    """A change: `layers` to float, a `placement` the other way round, or, where there is neither, the shortcuts in
    their other form.

    `expected_ms`, the gain per step that the layers' own times promise, decides when it is tried and nothing else.
    """

    title: str
    layers: frozenset[str]
    expected_ms: float
    placement: str = ""


@dataclass(frozen=True)
class Limits:
    """Seconds of building and measuring after which no further candidate is tried, and how far the median SQNR may
    sink in all."""

    seconds: float
    loss_db: float


@dataclass(frozen=True)
class Race:
    """Two engines in the same rounds."""

    before: Latency
    after: Latency

    @property
    def speedup(self) -> Interval:
        """Of `after` over `before`."""
        return median_speedup(self.after, self.before)


@dataclass(frozen=True)
class Trial:
    """One candidate, measured: `layers` are those that it changed; `sqnr_db` where it was fast enough to be asked."""

    candidate: Candidate
    layers: frozenset[str]
    race: Race
    sqnr_db: float | None
    kept: bool
    why: str


@dataclass(frozen=True)
class Outcome:
    """What was chosen, after which trials; `total` is the race of the first choice against it, if it is another."""

    chosen: Choice
    trials: tuple[Trial, ...]
    not_reached: tuple[Candidate, ...]
    total: Race | None
    untuned_db: float
    tuned_db: float
    seconds: float


class Workbench(Protocol):
    """Where choices are built and measured."""

    def changed(self, choice: Choice, candidate: Candidate) -> Choice | None:
        """The choice with that change; None where there is nothing to change or no int8 layer would be left."""

    def prepare(self, choice: Choice) -> None:
        """Do what is done once for all choices of one form of the shortcuts; its time does not count."""

    def race(self, before: Choice, after: Choice, rounds: Rounds) -> Race:
        """Time a step of both in interleaved rounds."""

    def sqnr_db(self, choice: Choice) -> float:
        """Median over the time-steps of the SQNR of eps, on held-out pairs."""


def gain(speedup: Interval) -> Literal["faster", "slower", "even"]:
    """What a speed-up says beyond its noise."""
    if speedup.low > 1:
        return "faster"
    return "slower" if speedup.high < 1 else "even"


def search(
    start: Choice,
    candidates: Sequence[Candidate],
    bench: Workbench,
    limits: Limits,
    progress: Callable[[float], None],
    clock: Callable[[], float] = time.monotonic,
) -> Outcome:
    """Try the candidates in their order, keep what wins, and stop when the time is up."""
    best, seconds = start, 0.0
    untuned_db = bench.sqnr_db(start)
    trials: list[Trial] = []
    not_reached: list[Candidate] = []
    for index, candidate in enumerate(candidates):
        other = bench.changed(best, candidate)
        if other is None:
            continue
        if seconds >= limits.seconds:
            not_reached.append(candidate)
            continue
        bench.prepare(other)
        began = clock()
        trials.append(_try(best, other, candidate, bench, untuned_db - limits.loss_db))
        best = other if trials[-1].kept else best
        seconds += clock() - began
        progress(min(1.0, max(seconds / limits.seconds, (index + 1) / len(candidates))))
    total = None if best == start else bench.race(start, best, THOROUGH)
    if total is not None and gain(total.speedup) != "faster":
        best, total, trials = start, None, [_given_back(trial) for trial in trials]
    progress(1.0)
    tuned_db = untuned_db if best == start else bench.sqnr_db(best)
    return Outcome(best, tuple(trials), tuple(not_reached), total, untuned_db, tuned_db, seconds)


def _try(best: Choice, other: Choice, candidate: Candidate, bench: Workbench, floor_db: float) -> Trial:
    layers = other.float_layers - best.float_layers if candidate.layers else frozenset()
    race = bench.race(best, other, BRIEF)
    found = gain(race.speedup)
    if found != "faster":
        why = "slower" if found == "slower" else "no faster beyond the noise"
        return Trial(candidate, layers, race, None, False, why)
    race = bench.race(best, other, THOROUGH)
    if gain(race.speedup) != "faster":
        return Trial(candidate, layers, race, None, False, "faster at first, not when measured again")
    sqnr_db = bench.sqnr_db(other)
    if sqnr_db < floor_db:
        why = f"faster, but {sqnr_db:.2f} dB are below the floor of {floor_db:.2f} dB"
        return Trial(candidate, layers, race, sqnr_db, False, why)
    return Trial(candidate, layers, race, sqnr_db, True, "faster, measured twice")


def _given_back(trial: Trial) -> Trial:
    why = "given back: all together are no faster than the first choice"
    return replace(trial, kept=False, why=why) if trial.kept else trial
