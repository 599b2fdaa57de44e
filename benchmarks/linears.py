"""What one step for the inputs of linears costs, and what gains and steps per token bring: SQNR of the simulation.

    python -m ptq_export.benchmarks.linears [--ckpt embedded:digits] [--targets ort-int8,openvino-int8,trt-int8]

Per target: one calibrated step; channels balanced; balanced, and a step per token where one is proposed (a run keeps
those that the network gains by); a step per token everywhere. Each is scored on held-out pairs, as the median over the
time-steps: the whole network, and it with its int8 linears alone, its convolutions float.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace

from torch import nn

from ptq_export.benchmarks.held_out import HELD_OUT_SEEDS, HeldOut, held_out_pairs
from ptq_export.benchmarks.sensitivity import median_sqnr_db, with_layers
from ptq_export.calibrators.linears import choose_linears
from ptq_export.calibrators.pairs import collect_pairs
from ptq_export.calibrators.quantise import Method, UnitStore, integer_parts, quantise
from ptq_export.calibrators.reconstruct import Recipe
from ptq_export.calibrators.sites import find_sites, with_tokens
from ptq_export.checkpoints import load_checkpoint
from ptq_export.console import Output, Screen
from ptq_export.denoiser import Denoiser
from ptq_export.errors import PtqExportError
from ptq_export.nn.bake import bake_weights
from ptq_export.nn.balance import balance
from ptq_export.nn.drop_variance import drop_variance
from ptq_export.options import PRESETS, Options
from ptq_export.pairs import Pairs
from ptq_export.prompts import prompted
from ptq_export.schedulers import allowed_steps
from ptq_export.targets import find_target

__all__ = ["main", "measure"]

HEADERS = ["target", "inputs of linears", "gains", "linears by token", "all int8, dB", "linears alone, dB"]
PAIRS, TIMESTEPS, STEPS, HELD_OUT_SEED = 16, 5, 20, 7


def measure(denoiser: Denoiser, pairs: Pairs, options: Options) -> Iterator[list[str]]:
    """A row of `HEADERS` for each setting on the target of `options`, which are resolved."""
    scheme = find_target(options.target).quantised()
    sites = find_sites(denoiser, scheme)
    choices = choose_linears(denoiser, sites, pairs, scheme, options.metric, options.seed)
    gains = {it.reading: it.gains for it in choices if it.gains is not None}
    proposed = {name for it in choices if it.by_token for name in it.reading.readers}
    held_out, balanced = _held_out(denoiser), balance(denoiser, gains)
    settings: tuple[tuple[str, Denoiser, set[str]], ...] = (
        ("one step", denoiser, set()),
        ("balanced", balanced, set()),
        ("balanced, by token where proposed", balanced, proposed),
        ("by token", denoiser, {site.name for site in sites}),
    )
    for title, subject, tokens in settings:
        recipe = Recipe(options.iterations or 0) if options.rounding == "learned" else None
        store = UnitStore(load=lambda _: None, save=lambda *_: None)
        method = Method(scheme, options.metric, recipe, options.seed)
        model = quantise(subject, with_tokens(sites, tokens), pairs, method, store, lambda _: None)
        layers = {path: part for parts in integer_parts(model).values() for path, part in parts.items()}
        linears = {it: part for it, part in layers.items() if isinstance(subject.module.get_submodule(it), nn.Linear)}
        figures = [
            median_sqnr_db(denoiser.module, with_layers(subject.module, some), held_out) for some in (layers, linears)
        ]
        counts = [len(gains) if subject is balanced else 0, len(tokens & {*linears})]
        yield [options.target, title, *map(str, counts), *(f"{figure:.2f}" for figure in figures)]


def _held_out(denoiser: Denoiser) -> HeldOut:
    steps, conditions = allowed_steps(denoiser.schedule, STEPS), denoiser.draw(PAIRS, HELD_OUT_SEEDS)
    shape, schedule = denoiser.sample_shape, denoiser.schedule
    seed, guidance = HELD_OUT_SEED, denoiser.guidance
    return held_out_pairs(denoiser, schedule, shape, steps, TIMESTEPS, PAIRS, seed, conditions, guidance)


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="linears", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ckpt", default="embedded:digits", help="trained denoiser (default: embedded:digits)")
    parser.add_argument("--resolution", type=int, metavar="N", help="height and width, where the checkpoint has none")
    parser.add_argument("--targets", default="ort-int8,openvino-int8,trt-int8", metavar="NAME,...", help="int8 targets")
    parser.add_argument("--rounding", default="nearest", choices=["nearest", "learned"], help="default: nearest")
    parser.add_argument("--effort", default="quick", choices=[*PRESETS], help="as of a run (default: quick)")
    asked = vars(parser.parse_args(arguments))
    targets = asked.pop("targets").split(",")
    screen = Screen(Output())
    try:
        screen.result({}, {"Inputs of linears": [HEADERS, *_rows(Options(**asked).resolved(), targets)]})
    except PtqExportError as error:
        screen.error(error)
        return error.exit_code
    return 0


def _rows(options: Options, targets: Sequence[str]) -> Iterator[list[str]]:
    read = prompted(load_checkpoint(options.ckpt, options.resolution), (), options.guidance)
    denoiser = drop_variance(bake_weights(read))
    count, steps = options.samples or 0, options.steps or 0
    pairs = collect_pairs(denoiser, count, steps, options.policy, options.seed, lambda _: None)
    for target in targets:
        yield from measure(denoiser, pairs, replace(options, target=target))


if __name__ == "__main__":
    raise SystemExit(main())
