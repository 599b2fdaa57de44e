"""The latency stage: int8 against its float baselines, per denoising step and over whole loops."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias, cast

import numpy as np

from ptq_export.benchmarks.chart import plot_latency
from ptq_export.benchmarks.environment import Environment, describe_environment
from ptq_export.benchmarks.timing.clock import Protocol, interleave
from ptq_export.benchmarks.timing.energy import energy_meter
from ptq_export.benchmarks.timing.gpu_clock import GpuStep, measure_gpu_steps
from ptq_export.benchmarks.timing.latency import LatencyReport, StepLatency, measure_steps
from ptq_export.benchmarks.timing.loop import measure_loop
from ptq_export.benchmarks.timing.memory import peak_memory_bytes
from ptq_export.engines.base import Engine, GpuEngine
from ptq_export.engines.cuda.driver import describe_gpu
from ptq_export.engines.registry import find_runtime, load_files
from ptq_export.engines.text_to_image import LatentDecoder, PromptEncoder, open_part, part_provider
from ptq_export.graph.model_file import model_bytes
from ptq_export.nn.probe import noise
from ptq_export.pairs import Pairs
from ptq_export.pipeline.job import Job
from ptq_export.pipeline.proofs import any_batch, build, one_call
from ptq_export.report.units import duration
from ptq_export.report.verdict import judged_step
from ptq_export.schedulers import allowed_steps
from ptq_export.targets import Target, find_target
from ptq_export.text_to_image import DECODER, TEXT_ENCODER

__all__ = ["measure_latency", "timing_verdict"]

Json: TypeAlias = dict[str, Any]
BATCHES, GPU_BATCHES = (1, 16), (1, 4, 16)
GUIDED_BATCHES = (2, 16)
"""Two rows per picture."""
LOOPS, FLOW_LOOPS = (("ddim", 20), ("dpm-solver++", 20)), (("flow-euler", 20),)
MAX_SECONDS = 120.0
UNASKED_SECONDS = 300.0
"""What a batch may take that nobody asked for."""
BRIEF = Protocol(warmup=1, min_rounds=5, min_seconds=0.0, max_seconds=MAX_SECONDS, fewest=1)


def measure_latency(job: Job) -> dict[str, Any]:
    """Write `latency.json` and `latency.png`; returns the former.

    What was timed of a batch is kept when it is finished: an interrupted stage goes on with the next batch. A batch of
    which the fewest rounds that count would take minutes is left out, unless it was asked for.
    """
    baselines = map(find_target, job.target.baselines)
    targets = [job.target, *(each for each in baselines if find_runtime(each.engine).missing() is None)]
    protocol = _protocol(job)
    batches, judged = _batches(job), _judged_batch(job)
    on_gpu = job.runtime.device == "gpu"
    measure = _OnGpu(job, targets, protocol) if on_gpu else _OnCpu(job, targets, protocol, batches, judged)
    environment = describe_environment(_gpu_name() if on_gpu else "", job.runtime.distributions)
    conditions = _conditions(job, targets, protocol, environment)
    parts: dict[int, Json] = {}
    for batch in batches:
        seconds = _unasked_seconds(job, protocol, batch, _round_s(parts[judged])) if judged in parts else 0.0
        if seconds > UNASKED_SECONDS:
            job.progress.message(f"batch {batch} is not timed: it would take {duration(seconds)}; --batch {batch} does")
        else:
            parts[batch] = _kept(job, batch, conditions, partial(measure, batch, batch == judged))
    report = LatencyReport(
        environment=environment,
        protocol=protocol,
        steps=[part["step"] for part in parts.values()],
        loops=[loop for part in parts.values() for loop in part["loops"]],
        size_bytes={target.name: model_bytes(job.folder.path / target.onnx) for target in targets},
        peak_memory_bytes=parts[judged]["peak_memory_bytes"],
        judged_batch=judged,
        gpu=[part["gpu"] for part in parts.values() if part["gpu"]],
    ).to_json()
    report |= _once_per_picture(job)
    job.folder.save_json("latency.json", report)
    plot_latency(report, job.folder.place("latency.png"))
    job.folder.remove(_part(batch) for batch in batches)
    job.folder.keep("latency.png")
    return report


def _protocol(job: Job) -> Protocol:
    rounds, seconds = job.options.rounds, job.options.seconds
    return Protocol(min_rounds=rounds, min_seconds=seconds, max_seconds=max(MAX_SECONDS, seconds))


def _unasked_seconds(job: Job, protocol: Protocol, batch: int, round_s: float) -> float:
    """What the fewest rounds of a batch take, if one of a sample takes `round_s`; 0 of a batch that was asked for."""
    if job.options.fixed_batch is not None or job.options.batch_range is not None:
        return 0.0
    return protocol.fewest * round_s * batch


def _round_s(part: Json) -> float:
    """Seconds of a round, a step of every engine, per sample of the batch that was timed."""
    step = part["step"]
    return float(sum(latency["median_ms"] for latency in step["candidates"].values()) / 1e3 / step["batch"])


def _part(batch: int) -> str:
    return f"latency.batch-{batch}.json"


def _kept(job: Job, batch: int, conditions: Json, measure: Callable[[], Json]) -> Json:
    """What was timed of a batch under these conditions before the stage was interrupted, or is now."""
    found = job.folder.load_json(_part(batch), "timed.json")
    if found is None or found["conditions"] != conditions:
        found = {"conditions": conditions, **measure()}
        job.folder.save_json(_part(batch), found)
    return found


def _conditions(job: Job, targets: Sequence[Target], protocol: Protocol, environment: Environment) -> Json:
    """What two batches must have in common to stand in one table: machine, versions, engines, protocol."""
    machine = environment.to_json()
    del machine["load_average"]
    engines = {target.name: job.folder.sha256(target.onnx) for target in targets}
    return {"machine": machine, "engines": engines, "protocol": protocol.to_json()}


def timing_verdict(latency: Mapping[str, Any] | None) -> dict[str, Any]:
    """`valid`, `speedup`, `baseline` and `batch` of the manifest's verdict, from `latency.json`."""
    if not latency:
        return {"valid": None, "speedup": None, "baseline": None, "batch": None}
    step = judged_step(latency)
    baseline = next(iter(step["speedup"]), None)
    speedup = step["speedup"].get(baseline)
    return {"valid": step["valid"], "speedup": speedup, "baseline": baseline, "batch": step["batch"]}


class _OnCpu:
    """Times batches on the CPU. To build an engine takes several times the memory of one that runs: what is kept of the
    build is made for one engine after the other, and only then are they opened side by side."""

    def __init__(
        self, job: Job, targets: Sequence[Target], protocol: Protocol, batches: Sequence[int], judged: int
    ) -> None:
        self._job, self._targets, self._protocol = job, targets, protocol
        self._batches, self._judged = batches, judged

    def __call__(self, batch: int, judged: bool) -> Json:
        """What `latency.json` says of a batch; loops and memory of the judged one alone."""
        job, engines, memory = self._job, *self._opened
        step = _step(job, engines, self._protocol, batch).to_json() | _once_per_prompt(job, engines, batch)
        loops = _loops(job, dict(list(engines.items())[:2]), batch) if judged else []
        return {"step": step, "gpu": None, "loops": loops, "peak_memory_bytes": memory if judged else {}}

    @cached_property
    def _opened(self) -> tuple[dict[str, Engine], dict[str, int | None]]:
        """The engines side by side, and the memory that each takes alone at the judged batch."""
        job, targets = self._job, self._targets
        for target in targets:
            self._keep_builds(target)
        memory = {target.name: _peak_memory(job, target, self._judged) for target in targets}
        return {target.name: build(job, target) for target in targets}, memory

    def _keep_builds(self, target: Target) -> None:
        job, judged = self._job, self._judged
        engine = build(job, target)
        start = perf_counter()
        engine.run(one_call(job, judged))
        round_s = (perf_counter() - start) / judged * len(self._targets)
        for batch in self._batches:
            if batch != judged and _unasked_seconds(job, self._protocol, batch, round_s) <= UNASKED_SECONDS:
                engine.run(one_call(job, batch))


class _OnGpu:
    """Times batches on the GPU, each on engines that are built for it alone: kernels are chosen for the shapes at
    hand, and a plan for 1 to 64 samples is tuned for 4 and serves 1 and 64 as it can."""

    def __init__(self, job: Job, targets: Sequence[Target], protocol: Protocol) -> None:
        self._job, self._targets, self._protocol = job, targets, protocol

    def __call__(self, batch: int, judged: bool) -> Json:
        """What `latency.json` says of a batch; loops and memory of the judged one alone."""
        job = self._job
        engines = {target.name: build(job, target, batch=batch) for target in self._targets}
        assert all(isinstance(engine, GpuEngine) for engine in engines.values()), "registered as a GPU's"
        on_gpu = cast("dict[str, GpuEngine]", engines)
        step = _gpu_step(job, on_gpu, self._protocol, batch)
        loops = _loops(job, dict(list(engines.items())[:2]), batch) if judged else []
        memory = {name: engine.gpu_bytes for name, engine in on_gpu.items()} if judged else {}
        return {"step": step.step.to_json(), "gpu": step.to_json(), "loops": loops, "peak_memory_bytes": memory}


def _judged_batch(job: Job) -> int:
    """The batch of the verdict, loops and memory: that for which the served engine is best, if it is timed."""
    batches, usual = _batches(job), job.own_options.usual_batch
    return usual if usual is not None and usual in batches else batches[0]


def _batches(job: Job) -> tuple[int, ...]:
    if job.options.fixed_batch is not None:
        return (job.options.fixed_batch,)
    if job.options.batch_range is not None:
        return tuple(sorted(set(job.options.batch_range)))
    if job.runtime.device == "gpu":
        return GPU_BATCHES
    return BATCHES if job.denoiser.guidance is None else GUIDED_BATCHES


def _step(job: Job, engines: Mapping[str, Engine], protocol: Protocol, batch: int) -> StepLatency:
    length = job.denoiser.schedule.num_train_timesteps
    times = range(0, length, max(1, length // 20))
    with job.stage(f"latency per step of {batch}") as share:
        (step,) = measure_steps(engines, [_pairs(job, batch)], protocol, times, share)
    return step


def _once_per_prompt(job: Job, engines: Mapping[str, Engine], batch: int) -> Json:
    """`prompt_ms`: what the prompt graph takes beside the steps, where there is one."""
    feeds = {name: value.numpy() for name, value in _pairs(job, batch).feeds.items()}
    prompts = {name: engine.prompt for name, engine in engines.items() if engine.prompt is not None}
    found = {name: round(prompt.median_ms(feeds), 4) for name, prompt in prompts.items()}
    return {"prompt_ms": found} if found else {}


def _once_per_picture(job: Job) -> Json:
    """`once`: what stands before the steps of one picture, and behind them."""
    text, path, provider = job.denoiser.text, job.folder.path, part_provider(job.runtime.device)
    calls: dict[str, Callable[[], object]] = {}
    if text is not None:
        session, prompts = open_part(path / TEXT_ENCODER, provider), text.prompts[:1]
        sides = [*prompts] if job.denoiser.guidance is None else [*prompts, ""]
        calls["text_encoder_ms"] = partial(PromptEncoder(text.parts, text.tokens, session), sides)
    if (path / DECODER).is_file():
        latents = np.zeros((1, *job.denoiser.sample_shape), np.float32)
        calls["decoder_ms"] = partial(LatentDecoder(open_part(path / DECODER, provider)), latents)
    if not calls:
        return {}
    with job.stage("latency before and behind the steps"):
        timed = {name: interleave({name: call}, BRIEF)[name] for name, call in calls.items()}
    return {"once": {name: round(latency.median_ms, 4) for name, latency in timed.items()}}


def _gpu_step(job: Job, engines: Mapping[str, GpuEngine], protocol: Protocol, batch: int) -> GpuStep:
    energy = energy_meter(describe_gpu().pci_bus_id)
    with job.stage(f"latency per step of {batch} by CUDA events") as share:
        (step,) = measure_gpu_steps(engines, [_pairs(job, batch)], protocol, energy, share)
    return step


def _loops(job: Job, engines: Mapping[str, Engine], batch: int) -> list[Json]:
    """Whole sampling loops of the engine and its first baseline, from noise in the host's memory; guided ones make a
    picture of two rows."""
    denoiser, schedule = job.denoiser, job.denoiser.schedule
    count = batch if denoiser.guidance is None else max(1, batch // 2)
    models = {name: denoiser.guided(any_batch(engine)) for name, engine in engines.items()}
    conditions, shape = denoiser.draw(count, 0), (count, *denoiser.sample_shape)
    loops = []
    for sampler, asked in FLOW_LOOPS if schedule.is_flow else LOOPS:
        with job.stage(f"latency of a {sampler} loop") as share:
            steps = allowed_steps(schedule, asked, sampler)
            loops.append(measure_loop(models, sampler, schedule, steps, shape, BRIEF, conditions, share).to_json())
    return loops


def _gpu_name() -> str:
    gpu = describe_gpu()
    return f"{gpu.label}, driver for CUDA {gpu.driver_cuda}"


def _peak_memory(job: Job, target: Target, batch: int) -> int | None:
    """Of a process that runs the engine and nothing else."""
    source = Path(job.folder.path / target.onnx).resolve()
    fixed = [] if job.options.fixed_batch is None else [str(job.options.fixed_batch)]
    return peak_memory_bytes(load_files, [target.engine, str(source), *fixed], one_call(job, batch))


def _pairs(job: Job, batch: int) -> Pairs:
    return noise(job.denoiser, batch, job.denoiser.schedule.num_train_timesteps // 2, batch)
