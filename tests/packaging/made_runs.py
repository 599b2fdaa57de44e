"""Runs with graphs made by hand, whole in their kind: one that takes a class, one that takes a prompt of any length."""

import json
from pathlib import Path
from typing import Any

from exported_net import inputs_of
from least import least_manifest
from nets_by_hand import PROMPT_CONDITIONS, PROMPTED, net_by_hand

from ptq_export.artifacts import describe_file
from ptq_export.denoiser import NoiseSchedule
from ptq_export.graph.prompt_file import save_split
from ptq_export.interface import Input, inputs_to_json, label

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
BOUNDED = PROMPTED.replace("eps = Add(seen, shift)", "moved = Add(seen, shift)\n    eps = Tanh(moved)")
"""A loop of it stays finite."""
CLASS = label(10)


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
    save_split(net_by_hand(LABELLED.replace("label", condition.name), (1, 8, 8), condition), run / GRAPH)
    return finish(run, denoiser=denoiser(inputs_of((1, 8, 8), condition)))


def prompted_run(run: Path) -> Path:
    """Samples `[2, 4]` under a prompt and a shift."""
    save_split(net_by_hand(BOUNDED, (2, 4), *PROMPT_CONDITIONS), run / GRAPH)
    return finish(run, denoiser=denoiser(inputs_of((2, 4), *PROMPT_CONDITIONS), clip_sample=False))
