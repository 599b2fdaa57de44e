"""What a run will take, from one timed evaluation of the network: shown before long work begins."""

import time
from dataclasses import dataclass
from math import prod

from ptq_export.denoiser import Denoiser
from ptq_export.device import find_device
from ptq_export.machine import require_memory, require_threads, total_memory_bytes
from ptq_export.nn.probe import noise
from ptq_export.options import Options
from ptq_export.pairs import Pairs
from ptq_export.pipeline.proofs import FID_SAMPLES, LOOP_STEPS, TIMESTEPS
from ptq_export.pipeline.stages import VALUES_PER_NUMBER, given, load_denoiser
from ptq_export.pipeline.start import COPIES

__all__ = ["Estimate", "estimate", "require_resources"]

BATCH = 16
LONG_S = 0.5
CALIBRATION_PASSES = 30  # evaluations per pair, for ranges, inputs of linears and rounding: 25 to 35 were measured
LEARNING_COST = 6.0  # one learning step on a sample, in evaluations: forward, backward, and the soft weights
MODELS_MEASURED = 4  # full precision, simulation, exact weights, engine
FIXED_S = 45.0  # two exports and the latency rounds of a small net


@dataclass(frozen=True)
class Estimate:
    """Wall-clock seconds, peak memory and disk space of a whole run."""

    seconds: float
    memory_bytes: int
    disk_bytes: int


def estimate(options: Options) -> Estimate:
    """Estimate the run that `options` ask for; a factor of two either way is to be expected.

    Raises:
        EnvironmentMissing: there is no such device as `options.device`.
        InputError: the checkpoint cannot be used, or the run does not fit into this machine.
    """
    options = options.resolved()
    device = find_device(options.device)
    denoiser = load_denoiser(options)
    require_resources(options, denoiser)
    per_sample_s = _per_sample_s(denoiser.on(device))
    samples, held_out = given(options.samples), given(options.held_out)
    evaluations = samples * (given(options.steps) + CALIBRATION_PASSES)
    evaluations += held_out * MODELS_MEASURED * (LOOP_STEPS + TIMESTEPS)
    evaluations *= 1 if denoiser.guidance is None else 2
    if options.rounding == "learned":
        evaluations += int(LEARNING_COST * 16 * given(options.iterations))
    if denoiser.source.spec == "embedded:digits":
        evaluations += 2 * FID_SAMPLES * LOOP_STEPS
    parameter_bytes = _parameter_bytes(denoiser)
    return Estimate(
        seconds=FIXED_S + (options.tune or 0.0) + evaluations * per_sample_s + parameter_bytes * 5e-7,
        memory_bytes=700 * 2**20 + COPIES * parameter_bytes + samples * _sample_bytes(denoiser) * VALUES_PER_NUMBER,
        disk_bytes=5 * parameter_bytes,
    )


def require_resources(options: Options, denoiser: Denoiser) -> None:
    """Refuse what this machine cannot hold, option by option, before anything of that size is allocated.

    `options` are resolved. The activations of a network are known by a rule of thumb only: a quarter of what it says
    is what must fit.

    Raises:
        InputError: a number of samples, of threads, ... that is too large.
    """
    if options.threads is not None:
        require_threads(options.threads)
    sample_bytes = _sample_bytes(denoiser)
    activation_bytes = sample_bytes * VALUES_PER_NUMBER // 4
    batch = max([options.fixed_batch or 1, *(options.batch_range or ())])
    for flag, count, each in (
        ("samples", given(options.samples), activation_bytes),
        ("held-out", given(options.held_out), sample_bytes * (TIMESTEPS + 2 * MODELS_MEASURED)),
        ("batch", batch, activation_bytes),
        ("rounds", options.rounds, MODELS_MEASURED * 32),
    ):
        require_memory(
            count * each, f"--{flag} {count}", f"give fewer: --{flag} {total_memory_bytes() // each} at most"
        )


def _sample_bytes(denoiser: Denoiser) -> int:
    return 4 * prod(denoiser.sample_shape)


def _parameter_bytes(denoiser: Denoiser) -> int:
    return 4 * sum(parameter.numel() for parameter in denoiser.module.parameters())


def _per_sample_s(denoiser: Denoiser) -> float:
    """Seconds of an evaluation per sample: of a batch, where one alone does not take long enough to tell."""
    alone_s = min(_evaluation_s(denoiser, noise(denoiser, 1, 0, 0)) for _ in range(2))
    if alone_s >= LONG_S:
        return alone_s
    batch = noise(denoiser, BATCH, 0, 0)
    return min(_evaluation_s(denoiser, batch) for _ in range(3)) / BATCH


def _evaluation_s(denoiser: Denoiser, pairs: Pairs) -> float:
    started = time.perf_counter()
    pairs.through(denoiser)
    return time.perf_counter() - started
