"""A module of (sample, timestep) as the graph of a denoiser, its inputs stated."""

import json

import onnx_ir as ir
import torch
from torch import nn

from ptq_export.graph.export import EXAMPLE_BATCH, export_module
from ptq_export.interface import INPUTS, Input, inputs_to_json
from ptq_export.pairs import Pairs

__all__ = ["exported", "inputs_of"]


def inputs_of(shape: tuple[int, ...], *conditions: Input) -> tuple[Input, ...]:
    """The inputs of a denoiser of samples of this shape."""
    return (Input("sample", "float32", shape), Input("timestep", "int64"), *conditions)


def exported(net: nn.Module, shape: tuple[int, ...]) -> ir.Model:
    """The graph of `net` for samples of `shape`."""
    example, inputs = Pairs(torch.zeros(EXAMPLE_BATCH, *shape), torch.arange(EXAMPLE_BATCH)), inputs_of(shape)
    graph = export_module(net, example, inputs)
    graph.metadata_props[INPUTS] = json.dumps(inputs_to_json(inputs))
    return graph
