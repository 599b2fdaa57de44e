"""A finished run of a net with attention that nobody has quantised: its "int8" graph is the FP32 graph itself."""

import json
from pathlib import Path

import torch
from diffusers import UNet2DModel
from exported_net import exported, inputs_of
from least import least_manifest
from safetensors.torch import save_file

from ptq_export.denoiser import UNetEps
from ptq_export.graph.model_file import save_model
from ptq_export.graph.passes.name_layers import NameLayers
from ptq_export.interface import inputs_to_json

__all__ = ["SHAPE", "make_run"]

SHAPE = (1, 8, 8)
FLOAT = ("conv_in", "conv_out")


def make_run(folder: Path, target: str = "ort-int8") -> Path:
    """Write what a comparison reads of a run."""
    torch.manual_seed(0)
    blocks = {"down_block_types": ["AttnDownBlock2D"], "up_block_types": ["UpBlock2D"], "add_attention": False}
    unet = UNet2DModel(8, 1, 1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, **blocks)
    model = exported(UNetEps(unet), SHAPE)
    NameLayers()(model)
    layers = [node.name for node in model.graph if node.name.startswith("unet.") and "time" not in node.name]
    folder.mkdir()
    for name in ("denoiser.fp32.onnx", f"denoiser.{target}.onnx"):
        save_model(model, folder / name)
    pairs = {"sample": torch.randn(4, *SHAPE), "timestep": torch.tensor([10, 300, 600, 990])}
    save_file(pairs, folder / "pairs.safetensors")
    rows = [_row(name, "float" if name.endswith(FLOAT) else "int8") for name in layers]
    (folder / "layers.json").write_text(json.dumps({"schema": 2, "layers": rows}))
    denoiser = {"spec": "attention.pt", "sha256": "0" * 64, "notes": [], "sample_shape": SHAPE, "schedule": {}}
    denoiser["inputs"] = inputs_to_json(inputs_of(SHAPE))
    timings = {"calibration pairs": 9.0, "calibration, learned rounding": 3.0, "ONNX export": 1.0}
    manifest = least_manifest(target=target, denoiser=denoiser, timings_s=timings)
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def _row(name: str, precision: str) -> dict[str, str]:
    return {"name": name, "op": "Conv", "precision": precision, "intended": precision, "reason": ""}
