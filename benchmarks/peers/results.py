"""Everything that one comparison found, and what may be said of it: who is fastest, who is most faithful."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ptq_export.benchmarks.environment import Environment
from ptq_export.benchmarks.peers.accuracy import Score, margin_db
from ptq_export.benchmarks.peers.peer import Entry
from ptq_export.benchmarks.peers.rivals import Rival, by_fidelity, rivals
from ptq_export.benchmarks.peers.runtimes import RUNTIMES
from ptq_export.benchmarks.peers.speed import Speed
from ptq_export.benchmarks.timing.loop import LoopOverhead
from ptq_export.benchmarks.timing.stats import compare
from ptq_export.processor import has_vnni

__all__ = ["Overhead", "Results"]

SCHEMA = 1
SURE = 2  # standard errors


@dataclass(frozen=True)
class Overhead:
    """The overhead of the sampling loop around one of our engines."""

    target: str
    threads: int
    loop: LoopOverhead

    def to_json(self) -> dict[str, Any]:
        """An entry of `loops` in the results."""
        return {"target": self.target, "threads": self.threads} | self.loop.to_json()


@dataclass
class Results:
    """By entry name: `int8_layers` and `scores`; `absent` holds who is not here or failed, with the reason."""

    entries: list[Entry]
    layers: int
    pairs: int
    int8_layers: dict[str, int] = field(default_factory=dict)
    scores: dict[str, Score] = field(default_factory=dict)
    speeds: list[Speed] = field(default_factory=list)
    loops: list[Overhead] = field(default_factory=list)
    absent: dict[str, str] = field(default_factory=dict)

    def findings(self) -> list[str]:
        """Sentences on the best of ours: in fidelity against every other tool at its best, its default beside it; in
        latency against the fastest other, setting by setting."""
        return [*self._faithful(), *(self._fastest(speed) for speed in self.speeds)]

    def losses(self) -> list[str]:
        """Which of our engines is beaten at once in latency, everywhere, and in fidelity, by which on its runtime.

        Differences within two standard errors, or within the margin of a speed-up, beat nobody.
        """
        return [
            f"{theirs.name} is faster and more faithful than {ours.name}"
            for ours in self.entries
            for theirs in self.entries
            if ours.own and not theirs.own and not theirs.is_float and _family(ours) == _family(theirs)
            if self._is_more_faithful(theirs, ours) and self._is_faster(theirs, ours)
        ]

    def to_json(self, environment: Environment, versions: Mapping[str, str]) -> dict[str, Any]:
        """The results as a JSON object."""
        return {
            "schema": SCHEMA,
            "environment": environment.to_json() | {"vnni": has_vnni(environment.isa), "peers": dict(versions)},
            "calibration_pairs": self.pairs,
            "layers": self.layers,
            "models": {entry.name: self._model(entry) for entry in self.entries},
            "speed": [speed.to_json() for speed in self.speeds],
            "loops": [loop.to_json() for loop in self.loops],
            "absent": self.absent,
            "findings": self.findings(),
            "losses": self.losses(),
        }

    def _model(self, entry: Entry) -> dict[str, Any]:
        score = self.scores.get(entry.name)
        return {
            "runtime": entry.runtime,
            "own": entry.own,
            "tool": entry.tool,
            "default": entry.is_default,
            "float": entry.is_float,
            "int8_layers": self.int8_layers.get(entry.name),
            "size_bytes": entry.size_bytes,
            "quantise_s": entry.seconds,
            "accuracy": None if score is None else score.to_json(),
        }

    def _faithful(self) -> Iterator[str]:
        scored = [entry for entry in self.entries if entry.name in self.scores and not entry.is_float]
        ours = [entry for entry in scored if entry.own]
        # A graph that its runtime computes in float has int8's error and none of its speed: no rival.
        theirs = [entry for entry in scored if not entry.own and self.int8_layers.get(entry.name)]
        if not ours or not theirs:
            return
        best = by_fidelity(ours, self.scores)[0]
        what = "same-noise PSNR" if self.scores[best.name].psnr_db else "SQNR over the time-steps"
        for rival in rivals(theirs, self.scores):
            where = f"{rival.tool} at its best ({rival.best.name}): {self._margin(best, rival.best)}"
            yield f"{what}: {best.name} against {where}{self._by_default(best, rival)}"

    def _by_default(self, ours: Entry, rival: Rival) -> str:
        if rival.default is None:
            return ""
        if rival.default == rival.best:
            return ", which is its default"
        return f"; by default ({rival.default.name}): {self._margin(ours, rival.default)}"

    def _margin(self, ours: Entry, theirs: Entry) -> str:
        gap, stderr = margin_db(self.scores[ours.name], self.scores[theirs.name])
        return f"{gap:+.2f} ± {stderr:.2f} dB"

    def _fastest(self, speed: Speed) -> str:
        ours, theirs = (self._quickest(speed, own) for own in (True, False))
        where = f"{speed.threads} thread{'s'[: speed.threads > 1]}, batch {speed.batch}"
        if ours is None or theirs is None:
            return f"{where}: nothing to compare"
        measured = compare(speed.latencies[ours], speed.latencies[theirs])
        times = f"{measured.speedup:.2f} (±{measured.margin:.0%}) times"
        return f"{where}: {ours} is {times} as fast as the fastest other, {theirs}"

    def _quickest(self, speed: Speed, own: bool) -> str | None:
        names = [entry.name for entry in self.entries if entry.own is own and entry.name in speed.latencies]
        return min(names, key=lambda name: speed.latencies[name].median_ms, default=None)

    def _is_more_faithful(self, entry: Entry, than: Entry) -> bool:
        if entry.name not in self.scores or than.name not in self.scores:
            return False
        gap, stderr = margin_db(self.scores[entry.name], self.scores[than.name])
        return gap > SURE * stderr

    def _is_faster(self, entry: Entry, than: Entry) -> bool:
        pairs = [(speed.latencies.get(entry.name), speed.latencies.get(than.name)) for speed in self.speeds]
        measured = [compare(one, other) for one, other in pairs if one is not None and other is not None]
        return bool(measured) and all(each.speedup > 1 + each.margin for each in measured)


def _family(entry: Entry) -> str:
    return RUNTIMES[entry.runtime].family
