"""The latency stage: int8 against its float baselines, per denoising step and over whole loops."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ptq_export.benchmarks.chart import plot_latency
from ptq_export.benchmarks.clock import Protocol
from ptq_export.benchmarks.energy import energy_meter
from ptq_export.benchmarks.environment import describe_environment
from ptq_export.benchmarks.gpu_clock import GpuStep, measure_gpu_steps
from ptq_export.benchmarks.latency import LatencyReport, StepLatency, measure_steps
from ptq_export.benchmarks.loop import LoopLatency, measure_loop
from ptq_export.benchmarks.memory import peak_memory_bytes
from ptq_export.engines.available import availability, load_files
from ptq_export.engines.base import Engine, GpuEngine
from ptq_export.engines.gpu import describe_gpu
from ptq_export.pipeline.proofs import build
from ptq_export.pipeline.stages import Job
from ptq_export.targets import Target, find_target

__all__ = ["measure_latency", "timing_verdict"]

BATCHES, GPU_BATCHES = (1, 16), (1, 4, 16, 64)
LOOPS = (("ddim", 20), ("dpm-solver++", 20))


def measure_latency(job: Job) -> dict[str, Any]:
    """Write `latency.json` and `latency.png`; returns the former."""
    baselines = map(find_target, job.target.baselines)
    targets = [job.target, *(each for each in baselines if availability(each.engine)[0])]
    engines = {target.name: build(job, target) for target in targets}
    protocol = Protocol(min_rounds=job.options.rounds, min_seconds=job.options.seconds)
    on_gpu = {name: engine for name, engine in engines.items() if isinstance(engine, GpuEngine)}
    gpu = _gpu_steps(job, on_gpu, protocol) if len(on_gpu) == len(engines) else []
    steps = [step.step for step in gpu] if gpu else _steps(job, engines, protocol)
    report = LatencyReport(
        environment=describe_environment(_gpu_name() if job.target.device == "gpu" else ""),
        protocol=protocol,
        steps=steps,
        loops=_loops(job, {target.name: engines[target.name] for target in targets[:2]}),
        size_bytes={target.name: (job.folder.path / target.onnx).stat().st_size for target in targets},
        peak_memory_bytes={target.name: _peak_memory(job, target, engines[target.name]) for target in targets},
        gpu=[step.to_json() for step in gpu],
    ).to_json()
    job.folder.save_json("latency.json", report)
    plot_latency(report, job.folder.place("latency.png"))
    job.folder.keep("latency.png")
    return report


def timing_verdict(latency: Mapping[str, Any] | None) -> dict[str, Any]:
    """`valid`, `speedup` and `baseline` of the manifest's verdict, from the first batch size of `latency.json`."""
    step = latency["steps"][0] if latency else {"valid": None, "speedup": {}}
    baseline = next(iter(step["speedup"]), None)
    return {"valid": step["valid"], "speedup": step["speedup"].get(baseline), "baseline": baseline}


def _batches(job: Job) -> tuple[int, ...]:
    if job.options.fixed_batch is not None:
        return (job.options.fixed_batch,)
    if job.options.batch_range is not None:
        return tuple(sorted(set(job.options.batch_range)))
    return GPU_BATCHES if job.target.device == "gpu" else BATCHES


def _steps(job: Job, engines: Mapping[str, Engine], protocol: Protocol) -> list[StepLatency]:
    shape, length = job.denoiser.sample_shape, job.denoiser.schedule.num_train_timesteps
    times = range(0, length, max(1, length // 20))
    with job.stage("latency per step") as share:
        return measure_steps(engines, _batches(job), shape, protocol, times, job.denoiser.classes, share)


def _gpu_steps(job: Job, engines: Mapping[str, GpuEngine], protocol: Protocol) -> list[GpuStep]:
    shape, middle = job.denoiser.sample_shape, job.denoiser.schedule.num_train_timesteps // 2
    energy = energy_meter(describe_gpu().pci_bus_id)
    with job.stage("latency per step, by CUDA events") as share:
        return measure_gpu_steps(engines, _batches(job), shape, protocol, middle, job.denoiser.classes, energy, share)


def _loops(job: Job, engines: Mapping[str, Engine]) -> list[LoopLatency]:
    """Whole sampling loops of the engine and its first baseline, from noise in the host's memory."""
    batch, schedule = _batches(job)[0], job.denoiser.schedule
    brief = Protocol(warmup=1, min_rounds=5, min_seconds=0.0)
    label = job.denoiser.labels(batch, 0)
    loops = []
    for sampler, count in LOOPS:
        with job.stage(f"latency of a {sampler} loop") as share:
            noise = (batch, *job.denoiser.sample_shape)
            loops.append(measure_loop(engines, sampler, schedule, count, noise, brief, *label, progress=share))
    return loops


def _gpu_name() -> str:
    gpu = describe_gpu()
    return f"{gpu.label}, driver for CUDA {gpu.driver_cuda}"


def _peak_memory(job: Job, target: Target, engine: Engine) -> int | None:
    """Of a process that runs the engine and nothing else; for one on a GPU what it holds there, where it tells."""
    if target.device == "gpu":
        return engine.gpu_bytes if isinstance(engine, GpuEngine) else None
    source = Path(job.folder.path / target.onnx).resolve()
    fixed = [] if job.options.fixed_batch is None else [str(job.options.fixed_batch)]
    shape, labelled = (_batches(job)[0], *job.denoiser.sample_shape), job.denoiser.classes is not None
    return peak_memory_bytes(load_files, [target.engine, str(source), *fixed], shape, labelled)
