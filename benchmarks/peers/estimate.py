"""How long a comparison will take, from one step of the FP32 graph; within a factor of two or so."""

from collections.abc import Sequence
from dataclasses import dataclass

from ptq_export.benchmarks.peers.accuracy import STEPS
from ptq_export.benchmarks.peers.speed import LOOP_STEPS, PAUSE_S

__all__ = ["Work", "estimate_s"]

# Of one core, for a network of 50 layers: what does not grow with the network's arithmetic.
QUANTISE_S, COMPILE_S, OPEN_S = 12.0, 40.0, 1.5
PASSES = 15  # over the pairs, per peer: histograms, bias correction
IN_BATCHES = 0.7  # a sample in a batch, against one alone
LOOPS = 12  # of ours, with their warm-up, and as many times their calls alone


@dataclass(frozen=True)
class Work:
    """What is to be done: `models` are rows of the tables, `compiled` those that Inductor compiles for every setting,
    `samples` and `pairs` what is scored of each (0: nothing), `own` our engines."""

    peers: int
    calibration_pairs: int
    models: int
    compiled: int
    own: int
    samples: int
    pairs: int
    rounds: int
    batches: Sequence[int]
    threads: Sequence[int]


def estimate_s(work: Work, step_s: float) -> float:
    """Seconds, where one FP32 step of one sample takes `step_s` with all of the threads."""
    quantising = work.peers * (QUANTISE_S + PASSES * work.calibration_pairs * step_s)
    scoring = work.models * (OPEN_S + STEPS * (work.samples + work.pairs) * step_s * IN_BATCHES)
    timing = 0.0
    for threads in work.threads:
        slower = max(work.threads) / threads
        for batch in work.batches:
            batch_s = step_s * slower * (1 + (batch - 1) * IN_BATCHES)
            timing += work.models * (OPEN_S + work.rounds * (2 * batch_s + PAUSE_S))
            timing += work.own * 2 * LOOPS * LOOP_STEPS * batch_s
    settings = len(work.threads) * len(work.batches)
    return quantising + scoring + timing + work.compiled * settings * COMPILE_S
