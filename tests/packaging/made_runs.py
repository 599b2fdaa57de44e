"""Runs with graphs made by hand, whole in their kind: one that takes a class, one that takes a prompt of any length."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from least import least_manifest

from ptq_export.artifacts import describe_file
from ptq_export.denoiser import NoiseSchedule
from ptq_export.graph.prompt_file import save_split
from ptq_export.interface import INPUTS, TRAIN_TIMESTEPS, Input, inputs_to_json, label

GRAPH = "denoiser.ort-int8.onnx"
LABELLED = """
<ir_version: 10, opset_import: ["": 18]>
net (float[batch,1,8,8] sample, int64[batch] timestep, int64[batch] label) => (float[batch,1,8,8] eps)
<float[1] small = {0.001}, int64[3] axes = {1, 2, 3}, float[1,1,8,8] weight>
{
    t = Cast <to = 1> (timestep)
    l = Cast <to = 1> (label)
    both = Add(t, l)
    less = Mul(both, small)
    shift = Unsqueeze(less, axes)
    scaled = Mul(sample, weight)
    moved = Add(scaled, shift)
    eps = Tanh(moved)
}
"""
PROMPTED = """
<ir_version: 10, opset_import: ["": 18]>
net (float[batch,2,4] sample, int64[batch] timestep, float[batch,tokens,3] text, float[batch,2,4] shift)
 => (float[batch,2,4] eps)
<float[3,4] w = {1,0,2,1, 0,1,-1,2, 3,1,0,-1}>
{
    k = MatMul(text, w)
    t = Transpose <perm = [0, 2, 1]> (k)
    scores = MatMul(sample, t)
    seen = MatMul(scores, k)
    moved = Add(seen, shift)
    eps = Tanh(moved)
}
"""
CLASS = label(10)
TEXT, SHIFT = Input("text", "float32", ("tokens", 3)), Input("shift", "float32", (2, 4))


def inputs(shape: tuple[int, ...], *conditions: Input) -> tuple[Input, ...]:
    return (Input("sample", "float32", shape), Input("timestep", "int64"), *conditions)


def graph(text: str, *named: Input) -> ir.Model:
    """A denoiser as this package exports one: layers with names, and what it takes in the metadata."""
    proto = onnx.parser.parse_model(text)
    if "weight" in text:
        weight = np.random.default_rng(0).standard_normal((1, 1, 8, 8)).astype(np.float32)
        [slot] = [it for it in proto.graph.initializer if it.name == "weight"] or [proto.graph.initializer.add()]
        slot.CopyFrom(onnx.numpy_helper.from_array(weight, "weight"))
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    model.metadata_props[INPUTS] = json.dumps(inputs_to_json(named))
    model.metadata_props[TRAIN_TIMESTEPS] = "1000"
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    return model


def finish(run: Path, **parts: Any) -> Path:
    """The manifest of what lies in `run`."""
    artefacts = {path.name: describe_file(path) for path in run.glob("*.onnx*")}
    (run / "manifest.json").write_text(json.dumps(least_manifest(artefacts=artefacts, **parts)))
    return run


def denoiser(named: tuple[Input, ...], **schedule: Any) -> dict[str, Any]:
    told = {"spec": "/home/someone/net.pt", "sha256": "", "notes": [], "sample_shape": list(named[0].shape)}
    return told | {"inputs": inputs_to_json(named), "schedule": NoiseSchedule(**schedule).to_json()}


def labelled_run(run: Path, condition: Input = CLASS) -> Path:
    """Samples `[1, 8, 8]` of ten classes."""
    named = inputs((1, 8, 8), condition)
    save_split(graph(LABELLED.replace("label", condition.name), *named), run / GRAPH)
    return finish(run, denoiser=denoiser(named))


def prompted_run(run: Path) -> Path:
    """Samples `[2, 4]` under a prompt and a shift."""
    named = inputs((2, 4), TEXT, SHIFT)
    save_split(graph(PROMPTED, *named), run / GRAPH)
    return finish(run, denoiser=denoiser(named, clip_sample=False))
