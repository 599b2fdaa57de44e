"""Latency per denoising step of every model: batch sizes and threads, all models in the same interleaved rounds."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptq_export.benchmarks.peers.peer import Entry
from ptq_export.benchmarks.peers.session import Session
from ptq_export.benchmarks.peers.subject import Subject
from ptq_export.benchmarks.peers.worker import PeerFailed
from ptq_export.benchmarks.peers.workshop import Workshop
from ptq_export.benchmarks.timing.clock import Protocol, interleave
from ptq_export.benchmarks.timing.stats import Latency

__all__ = ["LOOP_STEPS", "Speed", "image_s", "measure_speed"]

LOOP_STEPS = 50
PAUSE_S = 0.01


@dataclass(frozen=True)
class Speed:
    """The steps of all models at one number of threads and one batch size."""

    threads: int
    batch: int
    latencies: Mapping[str, Latency]

    def to_json(self) -> dict[str, Any]:
        """An entry of `speed` in the results."""
        latencies = {
            name: latency.to_json() | {"image_s": round(image_s(latency, self.batch), 6)}
            for name, latency in self.latencies.items()
        }
        return {"threads": self.threads, "batch": self.batch, "models": latencies}


def image_s(latency: Latency, batch: int) -> float:
    """Seconds that a model needs for an image: `LOOP_STEPS` median steps of a batch, shared by its samples."""
    return LOOP_STEPS * latency.median_ms / 1e3 / batch


def measure_speed(
    subject: Subject,
    workshop: Workshop,
    entries: Sequence[Entry],
    threads: int,
    batches: Sequence[int],
    protocol: Protocol,
    failed: Callable[[Entry, str], None],
    progress: Callable[[float], None],
) -> list[Speed]:
    """Time a step of every entry at every batch size; `failed` hears which could not be opened, and why.

    Between two models all processes rest for 10 ms, so that no thread of the one spins while the other is timed.
    """
    speeds = []
    with Session(subject, workshop, threads) as session:
        for index, batch in enumerate(batches):
            opened = [entry for entry in entries if _opens(session, entry, batch, failed)]
            calls = {entry.name: _rested(session, entry) for entry in opened}
            share = _part(progress, index, len(batches))
            speeds.append(Speed(threads, batch, interleave(calls, protocol, share, duration_ms=lambda call: call())))
            session.close_models()
    return speeds


def _opens(session: Session, entry: Entry, batch: int, failed: Callable[[Entry, str], None]) -> bool:
    try:
        session.open(entry, batch)
    except PeerFailed as error:
        failed(entry, error.cause)
        return False
    return True


def _rested(session: Session, entry: Entry) -> Callable[[], float]:
    def call() -> float:
        time.sleep(PAUSE_S)
        return session.step_ms(entry)

    return call


def _part(progress: Callable[[float], None], index: int, count: int) -> Callable[[float], None]:
    return lambda done: progress((index + done) / count)
