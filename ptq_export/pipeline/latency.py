"""The latency stage: int8 against its float baselines, per denoising step and over whole loops."""

from pathlib import Path
from typing import Any

from ptq_export.benchmarks.chart import plot_latency
from ptq_export.benchmarks.clock import Protocol
from ptq_export.benchmarks.environment import describe_environment
from ptq_export.benchmarks.latency import LatencyReport, measure_steps
from ptq_export.benchmarks.loop import measure_loop
from ptq_export.benchmarks.memory import peak_memory_bytes
from ptq_export.engines.available import availability, load_files
from ptq_export.engines.base import Engine
from ptq_export.pipeline.proofs import build
from ptq_export.pipeline.stages import Job
from ptq_export.targets import Target, find_target

__all__ = ["measure_latency"]

BATCHES = (1, 16)
LOOPS = (("ddim", 20), ("dpm-solver++", 20))


def measure_latency(job: Job) -> dict[str, Any]:
    """Write `latency.json` and `latency.png`; returns the former."""
    baselines = map(find_target, job.target.baselines)
    targets = [job.target, *(each for each in baselines if availability(each.engine)[0])]
    engines = {target.name: build(job, target) for target in targets}
    batches = BATCHES if job.options.batch is None else (job.options.batch,)
    shape, schedule = job.denoiser.sample_shape, job.denoiser.schedule
    protocol = Protocol(min_rounds=job.options.rounds, min_seconds=job.options.seconds)
    times = range(0, schedule.num_train_timesteps, max(1, schedule.num_train_timesteps // 20))
    with job.stage("latency per step") as share:
        steps = measure_steps(engines, batches, shape, protocol, times, job.denoiser.classes, share)
    loops = []
    for sampler, count in LOOPS:
        with job.stage(f"latency of a {sampler} loop") as share:
            brief = Protocol(warmup=1, min_rounds=5, min_seconds=0.0)
            both: dict[str, Engine] = {name: engines[name] for name in [target.name for target in targets[:2]]}
            label = job.denoiser.labels(batches[0], 0)
            noise = (batches[0], *shape)
            loops.append(measure_loop(both, sampler, schedule, count, noise, brief, *label, progress=share))
    report = LatencyReport(
        environment=describe_environment(),
        protocol=protocol,
        steps=steps,
        loops=loops,
        size_bytes={target.name: (job.folder.path / target.onnx).stat().st_size for target in targets},
        peak_memory_bytes={target.name: _peak_memory(job, target, batches[0]) for target in targets},
    ).to_json()
    job.folder.save_json("latency.json", report)
    plot_latency(report, job.folder.path / "latency.png")
    job.folder.keep("latency.png")
    return report


def _peak_memory(job: Job, target: Target, batch: int) -> int:
    source = Path(job.folder.path / target.onnx).resolve()
    fixed = [] if job.options.batch is None else [str(job.options.batch)]
    shape, labelled = (batch, *job.denoiser.sample_shape), job.denoiser.classes is not None
    return peak_memory_bytes(load_files, [target.engine, str(source), *fixed], shape, labelled)
