"""Which layers cost the most, measured on held-out pairs, and `--keep-float auto:DB`: those that go back to float."""

from dataclasses import replace
from typing import Any

from torch import nn

from ptq_export.benchmarks.chart import plot_sensitivity
from ptq_export.benchmarks.held_out import HELD_OUT_SEEDS, HeldOut, held_out_pairs
from ptq_export.benchmarks.sensitivity import fewest_float, layer_noise, median_sqnr_db, with_layers
from ptq_export.calibrators.quantise import integer_parts
from ptq_export.calibrators.sites import keep_float
from ptq_export.denoiser import Denoiser
from ptq_export.errors import InputError
from ptq_export.pipeline.job import Job, Plan
from ptq_export.schedulers import allowed_steps

__all__ = ["SENSITIVITY", "choose_float_layers", "few_held_out", "put_back", "rank_layers", "with_float_layers"]

PAIRS, TIMESTEPS, STEPS = 8, 5, 20
SEED = 4
KEPT, PLOT = "kept.json", "sensitivity.png"
SENSITIVITY = "sensitivity.json"


def rank_layers(job: Job, simulation: nn.Module) -> dict[str, Any]:
    """Write `sensitivity.json` and `sensitivity.png`: the noise of each int8 layer alone, the loudest first."""
    reference, layers, held_out = job.subject.module, integer_parts(simulation), few_held_out(job.denoiser, SEED)
    every = {path: part for parts in layers.values() for path, part in parts.items()}
    with job.stage("sensitivity, layer by layer") as share:
        ranking = layer_noise(reference, layers, held_out, share)
    value = {
        "pairs_per_timestep": PAIRS,
        "timesteps": list(held_out.pairs),
        "all_db": round(median_sqnr_db(reference, with_layers(reference, every), held_out), 2),
        "layers": [
            {"name": row.name, "sqnr_db": round(row.sqnr_db, 2), "share": round(row.share, 5)} for row in ranking
        ],
    }
    job.folder.save_json(SENSITIVITY, value)
    plot_sensitivity(value, job.folder.place(PLOT))
    job.folder.keep(PLOT)
    return value


def choose_float_layers(job: Job, simulation: nn.Module) -> Plan:
    """`--keep-float auto:DB`: the plan with as few layers of the simulation float as reach that median SQNR.

    Raises:
        InputError: not even one layer may be int8 there.
    """
    wanted_db = job.options.keep_float_db
    if wanted_db is not None and not job.folder.has(KEPT):
        ranking = [row["name"] for row in rank_layers(job, simulation)["layers"]]
        layers = integer_parts(simulation)
        with job.stage(f"layers to keep float for {wanted_db:g} dB"):
            names = fewest_float(job.subject.module, layers, ranking, wanted_db, few_held_out(job.denoiser, SEED))
        job.folder.save_json(KEPT, {"wanted_db": wanted_db, "layers": names})
    return with_float_layers(job)


def with_float_layers(job: Job) -> Plan:
    """The plan with the layers float that were chosen, if some were to be.

    Raises:
        InputError: the file with them is damaged.
    """
    reason = f"kept float to reach {job.options.keep_float_db:g} dB" if job.options.keep_float_db is not None else ""
    return replace(job.plan, sites=keep_float(job.sites, _chosen(job), reason))


def put_back(job: Job, simulation: nn.Module) -> None:
    """Have the chosen layers float in the simulation, too, and the grids that belong to them gone."""
    layers = integer_parts(simulation)
    for path in (path for name in _chosen(job) for path in layers[name]):
        simulation.set_submodule(path, job.subject.module.get_submodule(path))


def _chosen(job: Job) -> list[str]:
    if job.options.keep_float_db is None:
        return []
    found = job.folder.load_json(KEPT)
    if found is None:
        raise InputError(f"{job.folder.path / KEPT} is damaged or gone", "the same command makes the run again")
    names: list[str] = found["layers"]
    return names


def few_held_out(denoiser: Denoiser, seed: int) -> HeldOut:
    """Enough held-out pairs to rank choices, fewer than the proofs take."""
    schedule = denoiser.schedule
    conditions = denoiser.draw(PAIRS, HELD_OUT_SEEDS + 1)
    steps = allowed_steps(schedule, STEPS)
    shape, guidance = denoiser.sample_shape, denoiser.guidance
    return held_out_pairs(denoiser, schedule, shape, steps, TIMESTEPS, PAIRS, seed, conditions, guidance)
