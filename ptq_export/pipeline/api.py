"""The main job's verbs one by one, for Python: quantise a denoiser, export it."""

from dataclasses import replace
from pathlib import Path

from ptq_export.calibrators.pairs import collect_pairs
from ptq_export.calibrators.quantise import Method, UnitStore
from ptq_export.calibrators.quantise import quantise as quantise_module
from ptq_export.calibrators.reconstruct import Recipe
from ptq_export.calibrators.sites import with_tokens
from ptq_export.denoiser import Denoiser
from ptq_export.device import find_device
from ptq_export.graph.model_file import save_model
from ptq_export.nn.bake import bake_weights
from ptq_export.nn.balance import balance
from ptq_export.nn.planar import make_planar
from ptq_export.options import Options
from ptq_export.pipeline.graphs import export_graph, fold_time
from ptq_export.pipeline.linears import measure_inputs
from ptq_export.pipeline.stages import float_sites, given, open_subject
from ptq_export.pipeline.start import require_grids
from ptq_export.targets import find_target

__all__ = ["export", "quantise"]


def quantise(denoiser: Denoiser, options: Options | None = None) -> Denoiser:
    """The same denoiser with integer layers: what the engine of `options.target` will compute, in torch.

    Of `options` the target's scheme and the calibration options are read. Nothing is written.
    """
    options = (options or Options()).resolved()
    scheme = find_target(options.target).scheme_for(options, options.placements)
    denoiser = open_subject(make_planar(bake_weights(denoiser)), False, scheme)
    sites = float_sites(denoiser, scheme, options)
    require_grids(denoiser, sites, scheme)
    count, steps = given(options.samples), given(options.steps)
    subject = denoiser.on(find_device(options.device))
    pairs = collect_pairs(subject, count, steps, options.policy, options.seed, lambda _: None)
    if options.linears == "auto":
        found = measure_inputs(denoiser, sites, pairs, scheme, options)
        denoiser, sites = balance(denoiser, found.gains), with_tokens(sites, found.tokens)
        subject = denoiser.on(find_device(options.device))
    recipe = Recipe(given(options.iterations)) if options.rounding == "learned" else None
    method = Method(scheme, options.metric, recipe, options.seed)
    store = UnitStore(load=lambda _: None, save=lambda _, __: None)
    return replace(denoiser, module=quantise_module(subject, sites, pairs, method, store, lambda _: None).cpu())


def export(denoiser: Denoiser, path: Path | str) -> Path:
    """Write a float or quantised denoiser as an ONNX file of (sample, timestep) -> eps with a dynamic batch; above 2 GB
    its weights lie beside it, in `<path>.data`.

    What is not int8 is float32, also in TensorRT's scheme: float16 is written into the graph by `run`.
    """
    graph = export_graph(denoiser, denoiser.module)
    fold_time(graph, denoiser)
    save_model(graph, Path(path))
    return Path(path)
