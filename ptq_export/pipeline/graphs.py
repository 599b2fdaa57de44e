"""The ONNX files of a run, from the denoiser and its simulation, each in the form that its engines run best."""

import json
from dataclasses import asdict

import onnx_ir as ir
from torch import nn

from ptq_export.benchmarks.environment import package_versions
from ptq_export.calibrators.quantise import quantised_grids, quantised_modules
from ptq_export.denoiser import Denoiser
from ptq_export.graph.audit import check_codes, check_grids
from ptq_export.graph.export import EXAMPLE_BATCH, export_module
from ptq_export.graph.model_file import save_model
from ptq_export.graph.passes.constant_shapes import ConstantShapes
from ptq_export.graph.passes.drop_neutral import DropNeutral
from ptq_export.graph.passes.drop_weight_zero_points import DropWeightZeroPoints
from ptq_export.graph.passes.fold_padding import FoldPadding
from ptq_export.graph.passes.fold_time_embedding import FoldTimeEmbedding
from ptq_export.graph.passes.half_precision import HalfPrecision
from ptq_export.graph.passes.name_layers import NameLayers
from ptq_export.graph.passes.pin_layout import PinLayout
from ptq_export.graph.passes.quantise_before_resize import QuantiseBeforeResize
from ptq_export.graph.passes.strip_metadata import StripMetadata
from ptq_export.graph.passes.transpose_keys import TransposeKeys
from ptq_export.graph.prompt_file import load_whole
from ptq_export.interface import INPUTS, TRAIN_TIMESTEPS, inputs_to_json
from ptq_export.nn.probe import blank
from ptq_export.nn.scheme import Scheme
from ptq_export.pipeline.job import Job
from ptq_export.pipeline.stages import QUANTISED
from ptq_export.targets import FP16, FP32, FP32_UNFOLDED

__all__ = ["export_float", "export_graph", "export_graphs", "finished", "fold_time", "lay_out"]

TABLE_SHARE = 0.1


def export_float(job: Job) -> None:
    """Write the float graphs: before calibration, so that a network that cannot be exported costs none.

    Raises:
        InputError: it cannot be; the line of its code is named.
    """
    denoiser, folder, half = job.denoiser, job.folder, job.float_dtype == "float16"
    if not all(folder.has(name) for name in (FP32, FP32_UNFOLDED, *([FP16] if half else []))):
        with job.stage("ONNX export, float"):
            graph = export_graph(denoiser, denoiser.module)
            save_model(graph, folder.path / FP32_UNFOLDED)
            folder.keep(FP32_UNFOLDED)
            fold_time(graph, denoiser)
            _save(job, FP32, graph)
            if half:
                _save(job, FP16, HalfPrecision()(graph).model)


def export_graphs(job: Job, simulation: nn.Module) -> ir.Model:
    """Write the int8 graph, and the float ones if they do not stand; returns the former, whole, its codes and grids
    proved equal to the simulation's."""
    export_float(job)
    denoiser, folder, int8 = job.denoiser, job.folder, job.target.onnx
    if not folder.has(int8):
        with job.stage("ONNX export"):
            graph = export_graph(denoiser, simulation)
            fold_time(graph, denoiser)
            lay_out(graph, job.scheme)
            graph = finished(graph, job)
            graph.metadata_props["ptq_export.scheme"] = json.dumps(asdict(job.scheme), sort_keys=True)
            graph.metadata_props["ptq_export.calibration_sha256"] = folder.sha256(QUANTISED)
            _save(job, int8, graph)
    graph = load_whole(folder.path / int8)
    check_codes(graph, quantised_modules(simulation))
    check_grids(graph, quantised_grids(simulation))
    return graph


def export_graph(denoiser: Denoiser, module: nn.Module) -> ir.Model:
    """The graph of `module`, the denoiser's own or its simulation."""
    graph = export_module(module, blank(denoiser, EXAMPLE_BATCH), denoiser.inputs)
    StripMetadata()(graph)
    ConstantShapes()(graph)
    TransposeKeys()(graph)
    DropNeutral()(graph)
    FoldPadding()(graph)
    NameLayers()(graph)
    graph.metadata_props[TRAIN_TIMESTEPS] = str(denoiser.schedule.num_train_timesteps)
    graph.metadata_props[INPUTS] = json.dumps(inputs_to_json(denoiser.inputs))
    graph.metadata_props["ptq_export.checkpoint_sha256"] = denoiser.source.sha256
    graph.metadata_props["ptq_export.versions"] = json.dumps(package_versions(), sort_keys=True)
    return graph


def fold_time(graph: ir.Model, denoiser: Denoiser) -> None:
    """Replace the time embedding by a table; per block only if that stays a small part of the int8 engine.

    That has about one byte per parameter.
    """
    table_bytes = int(TABLE_SHARE * sum(parameter.numel() for parameter in denoiser.module.parameters()))
    FoldTimeEmbedding(denoiser.schedule.num_train_timesteps, max_table_bytes=table_bytes)(graph)


def lay_out(graph: ir.Model, scheme: Scheme) -> None:
    """Give a quantised graph the form in which the engines of `scheme` run it best."""
    PinLayout()(graph)
    if not scheme.weight_zero_point:
        DropWeightZeroPoints()(graph)
    if scheme.before_resize:
        QuantiseBeforeResize()(graph)


def finished(graph: ir.Model, job: Job) -> ir.Model:
    """The graph in the form that the target's runtime takes."""
    for rewrite in job.runtime.passes(job.own_options, job.float_dtype):
        graph = rewrite(graph).model
    return graph


def _save(job: Job, name: str, graph: ir.Model) -> None:
    job.runtime.write(graph, job.folder.path / name)
    job.folder.keep(name)
