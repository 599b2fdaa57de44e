"""Who is compared with whom: every other tool at its best, found by measurement, and what it makes by default."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ptq_export.benchmarks.peers.accuracy import Score
from ptq_export.benchmarks.peers.peer import Entry

__all__ = ["Rival", "by_fidelity", "rank_db", "rivals"]


@dataclass(frozen=True)
class Rival:
    """One tool's most faithful form, and its default (None: not among the rows)."""

    tool: str
    best: Entry
    default: Entry | None


def rivals(entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Rival]:
    """Of these entries, all scored, the rivals by tool: the most faithful first."""
    ranked = by_fidelity(entries, scores)
    return [_rival(tool, [entry for entry in ranked if entry.tool == tool]) for tool in _tools(ranked)]


def rank_db(score: Score) -> float:
    """What fidelity is ranked by: PSNR where images mean something, else SQNR."""
    return score.sqnr_median_db if score.psnr_mean_db is None else score.psnr_mean_db


def by_fidelity(entries: Sequence[Entry], scores: Mapping[str, Score]) -> list[Entry]:
    """The most faithful first; those without a score last, in their order."""
    return sorted(entries, key=lambda entry: -rank_db(scores[entry.name]) if entry.name in scores else 1e9)


def _tools(ranked: Sequence[Entry]) -> list[str]:
    return list(dict.fromkeys(entry.tool for entry in ranked))


def _rival(tool: str, ranked: Sequence[Entry]) -> Rival:
    return Rival(tool, ranked[0], next((entry for entry in ranked if entry.is_default), None))
