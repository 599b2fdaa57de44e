"""Tables 2 to 4 of PTQ4DM (arXiv:2211.15736), repeated on a model of yours; rounding and skip scales beside them.

    python -m ptq_export.benchmarks.ablation.command [--ckpt embedded:digits] [--seeds 3] [--out runs/ablation]

One factor at a time around a middle: where x_t comes from, how t is drawn, NDTC's mean and std, the range metric,
the rounding, joint or split skip scales, the number of pairs. Each setting is calibrated once per seed and scored on
held-out noise by median and worst-step SQNR of eps and by same-noise PSNR of the final samples (20 DDIM steps). The
simulation is scored: that the engine computes the same is proved in every run, and exporting costs more than scoring.
The embedded digits model gets a digit-FID for five of the settings, too.

No data set is needed: x_0, where a setting asks for images, is what the full-precision sampler makes of the same noise.

Every finished (setting, seed) is kept in `ablation.json`: the same command goes on after an interruption, and more
seeds may be asked for. `ablation.png` shows the factors.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from ptq_export.benchmarks.ablation.plot import plot_ablation
from ptq_export.benchmarks.ablation.score import STEPS, FullPrecision, fid_of_samples, full_precision, score
from ptq_export.benchmarks.ablation.settings import FID_SETTINGS, Setting, every_setting
from ptq_export.benchmarks.ablation.study import ITERATIONS, Study
from ptq_export.benchmarks.ablation.summary import Outcome, tables
from ptq_export.benchmarks.memoised import memoised
from ptq_export.benchmarks.same_noise import final_samples
from ptq_export.calibrators.pairs import collect_pairs
from ptq_export.calibrators.quantise import Method, UnitStore, quantise
from ptq_export.calibrators.reconstruct import Recipe
from ptq_export.calibrators.sites import find_sites
from ptq_export.checkpoints import load_checkpoint
from ptq_export.console import Output, Screen
from ptq_export.denoiser import Denoiser
from ptq_export.errors import PtqExportError
from ptq_export.nn.drop_variance import drop_variance
from ptq_export.nn.scheme import ORT_CPU
from ptq_export.nn.split_shortcut import split_shortcuts
from ptq_export.options import Options
from ptq_export.pairs import Pairs
from ptq_export.sampling import initial_noise
from ptq_export.schedulers import make_scheduler

__all__ = ["calibrate", "collect", "main"]

MIMIC_SEEDS = 1 << 30  # the noise that diffuses x_0 is not the noise that x_0 was made of
INTERRUPTED = 130


def collect(denoiser: Denoiser, setting: Setting, seed: int) -> Pairs:
    """The calibration pairs that `setting` asks for, at the times that its policy draws."""
    pairs = collect_pairs(denoiser, setting.pairs, STEPS, setting.policy, seed, lambda _: None)
    if setting.source == "denoising":
        return pairs
    noise = initial_noise(tuple(pairs.sample.shape), seed)  # x_T of these trajectories
    if setting.source == "noise":
        return replace(pairs, sample=noise)
    images = final_samples(denoiser, denoiser.schedule, noise, STEPS, pairs.conditions)
    if setting.source == "images":
        return replace(pairs, sample=images)
    fresh = initial_noise(tuple(pairs.sample.shape), MIMIC_SEEDS + seed)
    return replace(pairs, sample=make_scheduler(denoiser.schedule).add_noise(images, fresh, pairs.timestep))


def calibrate(denoiser: Denoiser, setting: Setting, pairs: Pairs, seed: int) -> nn.Module:
    """The simulation of `denoiser` quantised as `setting` says."""
    subject = split_shortcuts(denoiser) if setting.skip == "split" else denoiser
    recipe = Recipe(ITERATIONS) if setting.rounding == "learned" else None
    store = UnitStore(load=lambda _: None, save=lambda *_: None)
    method = Method(ORT_CPU, setting.metric, recipe, seed)
    return quantise(subject, find_sites(subject, ORT_CPU), pairs, method, store, lambda _: None)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="ablation", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ckpt", default="embedded:digits", help="trained denoiser (default: embedded:digits)")
    parser.add_argument("--resolution", type=int, metavar="N", help="height and width, where the checkpoint has none")
    parser.add_argument("--assume", metavar="KEY=VALUE,...", help="what the checkpoint's tensors do not tell")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="calibrations per setting (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("runs/ablation"), help="folder (default: runs/ablation)")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error("--seeds must be 1 or more")
    screen = Screen(Output())
    try:
        assumptions = Options(assume=options.assume).assumptions
        denoiser = drop_variance(load_checkpoint(options.ckpt, options.resolution, assumptions))
        for note in denoiser.source.notes:
            screen.note(note)
        study = Study(options.out, denoiser, assumptions)
        _run(study, denoiser, options.seeds, screen)
        value = study.to_json()
        plot_ablation(value, options.out / "ablation.png")
    except KeyboardInterrupt:
        screen.note("interrupted; the same command goes on")
        return INTERRUPTED
    except PtqExportError as error:
        screen.error(error)
        return error.exit_code
    screen.result(value, tables(value))
    screen.note(f"written: {study.path}, {options.out / 'ablation.png'}")
    return 0


def _run(study: Study, denoiser: Denoiser, seeds: int, screen: Screen) -> None:
    """Do what is left, seed by seed."""
    left = {seed: [each for each in every_setting() if (each, seed) not in study.outcomes] for seed in range(seeds)}
    total = sum(map(len, left.values()))
    if not total:
        return
    with screen.progress() as progress:
        progress.stage("full precision", None)
        reference = full_precision(memoised(denoiser))
        if _draws_digits(denoiser) and study.fp32_digit_fid is None:
            study.fp32_digit_fid = fid_of_samples(denoiser, denoiser)
        progress.stage("ablation", total)
        for seed, settings in left.items():
            sampler = memoised(denoiser)
            for setting in settings:
                study.keep(_outcome(denoiser, sampler, setting, seed, reference))
                progress.advance()


def _outcome(denoiser: Denoiser, sampler: Denoiser, setting: Setting, seed: int, reference: FullPrecision) -> Outcome:
    began = time.monotonic()
    model = torch.no_grad()(calibrate(denoiser, setting, collect(sampler, setting, seed), seed))
    calibrated = time.monotonic()
    result = score(model, reference)
    # One seed: 256 samples take as long as everything else about a setting, and FID ranks no close variants anyway.
    fid = fid_of_samples(model, denoiser) if _draws_digits(denoiser) and setting in FID_SETTINGS and not seed else None
    return Outcome(setting, seed, result, fid, round(calibrated - began, 2), round(time.monotonic() - calibrated, 2))


def _draws_digits(denoiser: Denoiser) -> bool:
    return denoiser.source.spec == "embedded:digits"
