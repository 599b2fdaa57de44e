"""Building the engine and proving it: int8 layers read back, parity with the simulation, fidelity to full precision."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from statistics import median
from typing import Any

import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ptq_export.artifacts import prompt_beside
from ptq_export.benchmarks.fid import compare_digit_fid
from ptq_export.benchmarks.fidelity import Curve, sqnr_per_timestep
from ptq_export.benchmarks.held_out import HELD_OUT_SEEDS, held_out_noise, held_out_pairs
from ptq_export.benchmarks.parity import global_parity, local_parity
from ptq_export.benchmarks.same_noise import SameNoise, same_noise_psnr
from ptq_export.calibrators.quantise import quantised_modules
from ptq_export.calibrators.sites import find_units
from ptq_export.device import exact_floats, find_device
from ptq_export.engines.base import Engine
from ptq_export.engines.exported_layers import asked_layers
from ptq_export.engines.registry import find_runtime
from ptq_export.engines.runtime import Runtime
from ptq_export.graph.passes.merge_projections import MERGED
from ptq_export.nn.layers import ExactWeightsLayer
from ptq_export.nn.probe import noise
from ptq_export.nn.share import share
from ptq_export.pairs import Pairs
from ptq_export.pipeline.float_layers import SENSITIVITY
from ptq_export.pipeline.job import Job
from ptq_export.pipeline.stages import given
from ptq_export.sampling import EpsModel
from ptq_export.schedulers import allowed_steps
from ptq_export.schemas import read_part
from ptq_export.targets import Target, find_target

__all__ = ["any_batch", "below_floor", "build", "check_layers", "failures", "one_call", "prove"]

LOOP_STEPS, TIMESTEPS = 20, 10
FID_SAMPLES = 256
LOCAL_PAIRS = 8
UNTRAINED_FLOOR_DB = 6.0
ONCE = "depends on conditions alone: computed once per prompt"


def build(job: Job, target: Target, runtime: Runtime | None = None, batch: int | None = None) -> Engine:
    """The engine of one of the run's ONNX files as `target` serves it; `runtime` is another that executes it, and
    `batch` the only batch that it is built for."""
    runtime = runtime or find_runtime(target.engine)
    source, cache, options = job.folder.path / target.onnx, job.folder.path / "engine", job.engine_options(runtime)
    options = options if batch is None else replace(options, batch=batch)
    return runtime.build(source, cache, options, job.folder.sha256(target.onnx))


def any_batch(engine: Engine) -> EpsModel:
    """The engine as a function of any batch: one compiled for N samples is called on N at a time."""
    size = engine.signature.batch
    if size is None:
        return engine

    def call(sample: Tensor, timestep: Tensor, **conditions: Tensor) -> Tensor:
        return Pairs(sample, timestep, conditions).in_batches_of(size, engine)

    return call


def check_layers(job: Job) -> None:
    """Write `layers.json`: the precision in which the engine runs each layer, read back from the engine itself, and
    the milliseconds that each takes there (`ms`) and in the float baseline (`float_ms`), data movement aside. Layers of
    the prompt graph have none: they are no part of a step.

    Where the engine does not run here, the precisions are those that the exported graph asks for (`read_from`).
    """
    expected = {site.name: "float" if site.keep_float else "int8" for site in job.sites if site.sees_sample}
    ms: dict[str, float] = {}
    float_ms: dict[str, float] = {}
    source = job.folder.path / job.target.onnx
    if not job.runs_here:
        records = asked_layers(source, expected)
    else:
        engine = build(job, job.target)
        records = engine.executed_layers(expected)
        with job.stage("time of each layer"):
            feeds = one_call(job)
            ms = engine.layer_times_ms(feeds)
            del engine  # one at a time in memory
            float_ms = build(job, find_target(job.target.baselines[0])).layer_times_ms(feeds)
    kept = {site.name: site.keep_float for site in job.sites}
    kept |= {f"{site.name}{MERGED}": site.keep_float for site in job.sites}
    if (prompt := prompt_beside(source)).is_file():
        hoisted = asked_layers(prompt, {})
        records = [*records, *hoisted]
        kept |= dict.fromkeys((record.name for record in hoisted), ONCE)
    rows = [
        asdict(record)
        | {"reason": kept.get(record.name) or record.reason}
        | {"ms": ms.get(record.name), "float_ms": float_ms.get(record.name)}
        for record in records
    ]
    read_from = "engine" if job.runs_here else "graph"
    job.folder.save_json("layers.json", {"read_from": read_from, "layers": rows})


def one_call(job: Job, batch: int | None = None) -> dict[str, NDArray[Any]]:
    """Feeds of the denoiser, by default at the smallest batch that the engine takes."""
    batch = batch or job.options.fixed_batch or (job.options.batch_range or (1,))[0]
    pairs = noise(job.denoiser, batch, job.denoiser.schedule.num_train_timesteps // 2, 0)
    return {name: value.numpy() for name, value in pairs.feeds.items()}


def prove(job: Job, simulation: nn.Module, graph: ir.Model, engine: Engine, pairs: Pairs) -> None:
    """Write `fidelity.json`, `samples.safetensors` and `parity.json`, unless all of them stand."""
    if not all(job.folder.has(name) for name in ("fidelity.json", "samples.safetensors", "parity.json")):
        curves = _measure_fidelity(job, simulation, engine)
        _prove_parity(job, simulation, graph, pairs, curves)


def below_floor(job: Job) -> bool:
    """Whether the engine is further from full precision than `--min-sqnr` allows."""
    return _median_sqnr_db(job) < _floor_db(job)


def _floor_db(job: Job) -> float:
    """Untrained weights have no images to spoil: their floor only tells a wrong network, half of whose eps is noise."""
    untrained = job.denoiser.source.spec.startswith("random:")
    return min(job.options.min_sqnr, UNTRAINED_FLOOR_DB) if untrained else job.options.min_sqnr


def _median_sqnr_db(job: Job) -> float:
    curves = read_part(job.folder.path, "fidelity.json")["curves"]
    return float(median(curves[job.target.name]["sqnr_db"]))


def _too_far(job: Job) -> str:
    """Below the floor: by how much, and the layers that make most of the noise."""
    ranking = job.folder.load_json(SENSITIVITY) or {"layers": []}
    loudest = [f"{row['name']} ({row['share']:.0%})" for row in ranking["layers"][:3]]
    told = f"; most of the noise is made by {', '.join(loudest)}" if loudest else ""
    found_db, floor_db = _median_sqnr_db(job), _floor_db(job)
    return f"median SQNR {found_db:.1f} dB, below {floor_db:g} dB (--min-sqnr): images will be others{told}"


def failures(job: Job) -> list[str]:
    """What the proofs found: too little fidelity, layers that are float and were meant to be int8, parity past its
    bound, and what the target's own rules or builder refuse."""
    layers, parity = (read_part(job.folder.path, name) for name in ("layers.json", "parity.json"))
    found = job.runtime.failures(job.order)
    found += [_too_far(job)] if below_floor(job) else []
    found += [
        f"{row['name']} runs in float in the engine: {row['reason']}"
        for row in layers["layers"]
        if row["intended"] == "int8" and row["precision"] != "int8"
    ]
    found += [
        f"{row['kind']} {row['block']}: the engine differs from the simulation"
        for row in parity["local"]
        if not row["ok"]
    ]
    return found + [
        f"t = {row['timestep']}: engine {row['engine_db']:.1f} dB, simulation {row['simulation_db']:.1f} dB"
        for row in parity["global"]
        if not row["ok"]
    ]


def _prove_parity(job: Job, simulation: nn.Module, graph: ir.Model, pairs: Pairs, curves: Mapping[str, Curve]) -> None:
    units = find_units(job.subject, job.sites)
    modules = dict.fromkeys(name for unit in units for name in (*unit.sites, unit.name))
    chosen = torch.linspace(0, len(pairs) - 1, min(LOCAL_PAIRS, len(pairs))).long()
    with job.stage("parity, layer by layer"):
        run_graph, few = job.prover.engine().run_graph, pairs.rows(chosen)
        local = local_parity(job.subject.module, simulation, graph, modules, run_graph, few, job.float_dtype)
    whole = global_parity(curves["simulation"], curves[job.target.name])
    rows = {"local": [row.to_json() for row in local], "global": [row.to_json() for row in whole]}
    job.folder.save_json("parity.json", rows)


@exact_floats()
def _measure_fidelity(job: Job, simulation: nn.Module, engine: Engine) -> dict[str, Curve]:
    denoiser, schedule, name = job.denoiser.on(find_device(job.options.device)), job.denoiser.schedule, job.target.name
    count, steps = given(job.options.held_out), allowed_steps(schedule, LOOP_STEPS)
    exact_weights = _exact_weights(job.subject.module, simulation)
    models: dict[str, EpsModel] = {
        name: any_batch(engine),
        "simulation": replace(job.denoiser, module=simulation).on(denoiser.device),
        "exact_weights": replace(job.denoiser, module=exact_weights).on(denoiser.device),
    }
    conditions = denoiser.draw(count, HELD_OUT_SEEDS)
    with job.stage("fidelity, step by step") as share:
        shape = denoiser.sample_shape
        held_out = held_out_pairs(denoiser, schedule, shape, steps, TIMESTEPS, count, 1, conditions, denoiser.guidance)
        curves = sqnr_per_timestep(denoiser, models, held_out, share)
    final_noise = held_out_noise((count, *shape), 2)
    guided = {key: denoiser.guided(model) for key, model in models.items()}
    with job.stage("fidelity, final samples") as share:
        exact, decoder = denoiser.guided(denoiser), denoiser.decoder
        same = same_noise_psnr(exact, guided, schedule, final_noise, steps, conditions, decoder, progress=share)
    job.folder.save_tensors(
        "samples.safetensors", {"reference": same.reference[:16], "engine": same.candidates[name][:16]}
    )
    value = {
        "pairs_per_timestep": count,
        "timesteps": list(held_out.pairs),
        "curves": {key: curve.to_json() for key, curve in curves.items()},
        "psnr": same.to_json(),
        "guidance": denoiser.guidance and denoiser.guidance.scale,
        "prompts": list(denoiser.drawn_prompts(count, HELD_OUT_SEEDS)),
        "fid": _digit_fid(job, models[name], same),
    }
    job.folder.save_json("fidelity.json", value)
    return curves


def _digit_fid(job: Job, engine: EpsModel, same: SameNoise) -> dict[str, Any] | None:
    """Digit-FID of the samples that were just drawn and as many more as make `FID_SAMPLES`."""
    if job.denoiser.source.spec != "embedded:digits":
        return None
    denoiser, schedule = job.denoiser, job.denoiser.schedule
    fresh = held_out_noise((max(1, FID_SAMPLES - len(same.reference)), *denoiser.sample_shape), 3)
    with job.stage("digit-FID") as share:
        more = same_noise_psnr(denoiser, {job.target.name: engine}, schedule, fresh, LOOP_STEPS, progress=share)
    first, second = same.candidates[job.target.name], more.candidates[job.target.name]
    return compare_digit_fid(torch.cat([same.reference, more.reference]), torch.cat([first, second])).to_json()


def _exact_weights(module: nn.Module, simulation: nn.Module) -> nn.Module:
    """The network with exact weights behind the simulation's activation grids."""
    found = share(simulation)
    for name, layer in quantised_modules(simulation).items():
        found.set_submodule(name, ExactWeightsLayer(layer, module.get_submodule(name)))
    return found
