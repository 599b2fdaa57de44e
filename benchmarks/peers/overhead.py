"""What Python adds to our engines in a sampling loop: the scheduler, the checks of the arguments, the copies."""

from pathlib import Path

import torch

from ptq_export.benchmarks.peers.speed import LOOP_STEPS
from ptq_export.benchmarks.peers.subject import Own, Subject
from ptq_export.benchmarks.timing.clock import Protocol
from ptq_export.benchmarks.timing.loop import LoopOverhead, measure_overhead
from ptq_export.engines.base import EngineOptions
from ptq_export.engines.registry import build_engine
from ptq_export.targets import find_target

__all__ = ["loop_overhead"]


def loop_overhead(
    subject: Subject, own: Own, cache: Path, batch: int, threads: int, protocol: Protocol
) -> LoopOverhead:
    """Of a loop of `LOOP_STEPS` steps; torch, which computes the scheduler, gets as many threads as the engine."""
    torch.set_num_threads(threads)
    engine = build_engine(find_target(own.target).engine, own.graph, cache, EngineOptions(batch=batch, threads=threads))
    return measure_overhead(engine, subject.schedule, LOOP_STEPS, batch, protocol, subject.draw(batch, batch))
