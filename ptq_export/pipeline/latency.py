"""The latency stage: int8 against its float baselines, per denoising step and over whole loops."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ptq_export.benchmarks.chart import plot_latency
from ptq_export.benchmarks.environment import describe_environment
from ptq_export.benchmarks.timing.clock import Protocol
from ptq_export.benchmarks.timing.energy import energy_meter
from ptq_export.benchmarks.timing.gpu_clock import GpuStep, measure_gpu_steps
from ptq_export.benchmarks.timing.latency import LatencyReport, StepLatency, measure_steps
from ptq_export.benchmarks.timing.loop import LoopLatency, measure_loop
from ptq_export.benchmarks.timing.memory import peak_memory_bytes
from ptq_export.engines.base import Engine, GpuEngine
from ptq_export.engines.cuda.driver import describe_gpu
from ptq_export.engines.registry import availability, load_files
from ptq_export.engines.trt.reuse import batch_range
from ptq_export.graph.model_file import model_bytes
from ptq_export.nn.probe import noise
from ptq_export.pairs import Pairs
from ptq_export.pipeline.proofs import build
from ptq_export.pipeline.stages import Job
from ptq_export.report.verdict import judged_step
from ptq_export.schedulers import allowed_steps
from ptq_export.targets import Target, find_target

__all__ = ["measure_latency", "timing_verdict"]

BATCHES, GPU_BATCHES = (1, 16), (1, 4, 16)
LOOPS, FLOW_LOOPS = (("ddim", 20), ("dpm-solver++", 20)), (("flow-euler", 20),)


@dataclass(frozen=True)
class _Measured:
    """What was timed; `judged_batch` is the batch of the verdict, of the loops and of the memory."""

    steps: Sequence[StepLatency]
    loops: Sequence[LoopLatency]
    peak_memory_bytes: Mapping[str, int | None]
    judged_batch: int
    gpu: Sequence[GpuStep] = ()


def measure_latency(job: Job) -> dict[str, Any]:
    """Write `latency.json` and `latency.png`; returns the former."""
    baselines = map(find_target, job.target.baselines)
    targets = [job.target, *(each for each in baselines if availability(each.engine)[0])]
    protocol = Protocol(min_rounds=job.options.rounds, min_seconds=job.options.seconds)
    measured = (_on_gpu if job.target.device == "gpu" else _on_cpu)(job, targets, protocol)
    report = LatencyReport(
        environment=describe_environment(_gpu_name() if job.target.device == "gpu" else ""),
        protocol=protocol,
        steps=measured.steps,
        loops=measured.loops,
        size_bytes={target.name: model_bytes(job.folder.path / target.onnx) for target in targets},
        peak_memory_bytes=measured.peak_memory_bytes,
        judged_batch=measured.judged_batch,
        gpu=[step.to_json() for step in measured.gpu],
    ).to_json()
    job.folder.save_json("latency.json", report)
    plot_latency(report, job.folder.place("latency.png"))
    job.folder.keep("latency.png")
    return report


def timing_verdict(latency: Mapping[str, Any] | None) -> dict[str, Any]:
    """`valid`, `speedup`, `baseline` and `batch` of the manifest's verdict, from `latency.json`."""
    if not latency:
        return {"valid": None, "speedup": None, "baseline": None, "batch": None}
    step = judged_step(latency)
    baseline = next(iter(step["speedup"]), None)
    speedup = step["speedup"].get(baseline)
    return {"valid": step["valid"], "speedup": speedup, "baseline": baseline, "batch": step["batch"]}


def _on_cpu(job: Job, targets: Sequence[Target], protocol: Protocol) -> _Measured:
    engines = {target.name: build(job, target) for target in targets}
    batches = _batches(job)
    steps = _steps(job, engines, protocol)
    loops = _loops(job, dict(list(engines.items())[:2]), batches[0])
    return _Measured(steps, loops, {target.name: _peak_memory(job, target) for target in targets}, batches[0])


def _on_gpu(job: Job, targets: Sequence[Target], protocol: Protocol) -> _Measured:
    """Each batch on engines that were built for it alone, and one batch at a time: kernels are chosen for the shapes
    at hand, and a plan for 1 to 64 samples is tuned for 4 and serves 1 and 64 as it can.

    The verdict is that of the batch for which the served plan is tuned.
    """
    batches, usual = _batches(job), batch_range(job.engine_options)[1]
    judged = usual if usual in batches else batches[0]
    found = [_at_batch(job, targets, protocol, batch, with_loops=batch == judged) for batch in batches]
    loops, memory = next((loops, memory) for step, loops, memory in found if step.batch == judged)
    steps = [step for step, _, _ in found]
    return _Measured([step.step for step in steps], loops, memory, judged, steps)


def _at_batch(
    job: Job, targets: Sequence[Target], protocol: Protocol, batch: int, with_loops: bool
) -> tuple[GpuStep, list[LoopLatency], dict[str, int | None]]:
    engines = {target.name: build(job, target, batch=batch) for target in targets}
    assert all(isinstance(engine, GpuEngine) for engine in engines.values()), "registered as a GPU's"
    on_gpu = cast("dict[str, GpuEngine]", engines)
    step = _gpu_step(job, on_gpu, protocol, batch)
    loops = _loops(job, dict(list(engines.items())[:2]), batch) if with_loops else []
    return step, loops, {name: engine.gpu_bytes for name, engine in on_gpu.items()}


def _batches(job: Job) -> tuple[int, ...]:
    if job.options.fixed_batch is not None:
        return (job.options.fixed_batch,)
    if job.options.batch_range is not None:
        return tuple(sorted(set(job.options.batch_range)))
    return GPU_BATCHES if job.target.device == "gpu" else BATCHES


def _steps(job: Job, engines: Mapping[str, Engine], protocol: Protocol) -> list[StepLatency]:
    length = job.denoiser.schedule.num_train_timesteps
    times = range(0, length, max(1, length // 20))
    with job.stage("latency per step") as share:
        return measure_steps(engines, [_pairs(job, batch) for batch in _batches(job)], protocol, times, share)


def _gpu_step(job: Job, engines: Mapping[str, GpuEngine], protocol: Protocol, batch: int) -> GpuStep:
    energy = energy_meter(describe_gpu().pci_bus_id)
    with job.stage(f"latency per step of {batch} by CUDA events") as share:
        (step,) = measure_gpu_steps(engines, [_pairs(job, batch)], protocol, energy, share)
    return step


def _loops(job: Job, engines: Mapping[str, Engine], batch: int) -> list[LoopLatency]:
    """Whole sampling loops of the engine and its first baseline, from noise in the host's memory."""
    schedule = job.denoiser.schedule
    brief = Protocol(warmup=1, min_rounds=5, min_seconds=0.0)
    conditions = job.denoiser.draw(batch, 0)
    loops = []
    for sampler, count in FLOW_LOOPS if schedule.is_flow else LOOPS:
        with job.stage(f"latency of a {sampler} loop") as share:
            shape = (batch, *job.denoiser.sample_shape)
            steps = allowed_steps(schedule, count, sampler)
            loops.append(measure_loop(engines, sampler, schedule, steps, shape, brief, conditions, share))
    return loops


def _gpu_name() -> str:
    gpu = describe_gpu()
    return f"{gpu.label}, driver for CUDA {gpu.driver_cuda}"


def _peak_memory(job: Job, target: Target) -> int | None:
    """Of a process that runs the engine and nothing else."""
    source = Path(job.folder.path / target.onnx).resolve()
    fixed = [] if job.options.fixed_batch is None else [str(job.options.fixed_batch)]
    feeds = {name: value.numpy() for name, value in _pairs(job, _batches(job)[0]).feeds.items()}
    return peak_memory_bytes(load_files, [target.engine, str(source), *fixed], feeds)


def _pairs(job: Job, batch: int) -> Pairs:
    return noise(job.denoiser, batch, job.denoiser.schedule.num_train_timesteps // 2, batch)
