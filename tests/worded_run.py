"""A text-to-image run by hand, whole in its kind: tokenizer, text encoder, denoiser of latents, decoder.

It has a condition that no prompt decides, as SDXL has, with examples.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from exported_net import inputs_of
from least import least_manifest
from nets_by_hand import net_by_hand
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from ptq_export.artifacts import describe_file
from ptq_export.command_options import Sampling
from ptq_export.denoiser import NoiseSchedule
from ptq_export.graph.prompt_file import save_split
from ptq_export.interface import Input, inputs_to_json
from ptq_export.pipeline import sample
from ptq_export.pipeline.progress import SILENT
from ptq_export.text_to_image import TextParts

__all__ = ["MOVED", "PROMPTS", "SCALE", "TOKENS", "picture_of_sample", "worded_run"]

GRAPH, TOKENS, SCALE = "denoiser.ort-int8.onnx", 5, 3.0
PROMPTS = ("a red apple", "a green dog")
WORDS = ("</s>", "a", "red", "green", "apple", "dog")
LATENTS = (2, 4, 4)
CONDITIONS = (Input("text", "float32", (TOKENS, 3)), Input("sizes", "float32", (2,)))
MOVED = """
    t = Cast <to = 1> (timestep)
    scaled = Mul(t, small)
    time = Unsqueeze(scaled, sides)
    weighed = Mul(sample, weight)
    moved = Add(weighed, shift)
    all = Add(moved, time)
    eps = Tanh(all)
}
"""
NET = (
    """
<ir_version: 10, opset_import: ["": 18]>
net (float[batch,2,4,4] sample, int64[batch] timestep, float[batch,5,3] text, float[batch,2] sizes)
 => (float[batch,2,4,4] eps)
<float[1] small = {0.001}, int64[3] sides = {1, 2, 3}, int64[2] across = {2, 3}, int64[1] words = {1},
 float[3,2] w = {1,-1, 0.5,2, -2,1}, float[1,2,4,4] weight>
{
    read = MatMul(text, w)
    mean = ReduceMean <keepdims = 0> (read, words)
    told = Mul(mean, sizes)
    shift = Unsqueeze(told, across)"""
    + MOVED
)
ENCODER = """
<ir_version: 10, opset_import: ["": 18]>
encoder (int64[batch,5] input_ids) => (float[batch,5,3] text)
<float[6,3] table = {0,0,0.1, 1,0,0, 0,1,0, 0,0,1, 1,1,0, -1,0,1}>
{
    text = Gather(table, input_ids)
}
"""
DECODER = """
<ir_version: 10, opset_import: ["": 18]>
decoder (float[batch,2,4,4] latents) => (float[batch,3,8,8] image)
<float[2,3,2,2] w = {0.5,0.1,0.2,0.3, -0.4,0.2,0.1,0.6, 0.3,0.3,-0.2,0.1,
 0.2,-0.5,0.4,0.1, 0.1,0.2,0.3,0.4, -0.3,0.1,0.5,0.2}>
{
    image = ConvTranspose <strides = [2, 2]> (latents, w)
}
"""


def worded_run(run: Path, examples: int = 4) -> Path:
    """Pictures `[3, 8, 8]` of latents `[2, 4, 4]`."""
    run.mkdir(parents=True, exist_ok=True)
    save_split(net_by_hand(NET, LATENTS, *CONDITIONS), run / GRAPH)
    for name, graph in {"text_encoder": ENCODER, "decoder": DECODER}.items():
        onnx.save(onnx.parser.parse_model(graph), run / f"{name}.onnx")
    (run / "tokenizer.json").write_text(tokenizer().to_str())
    save_file({"sizes": np.full((examples, 2), 0.5, np.float32)}, run / "pairs.safetensors")
    schedule = NoiseSchedule(prediction_type="sample", clip_sample=False)
    denoiser = {
        **{"spec": "/home/someone/pipeline", "sha256": "", "notes": [], "sample_shape": list(LATENTS)},
        **{"inputs": inputs_to_json(inputs_of(LATENTS, *CONDITIONS)), "schedule": schedule.to_json()},
        "text": TextParts(("text",), 1, SCALE, PROMPTS).to_json(),
    }
    artefacts = {path.name: describe_file(path) for path in run.iterdir()}
    (run / "manifest.json").write_text(json.dumps(least_manifest(artefacts=artefacts, denoiser=denoiser)))
    return run


def picture_of_sample(run: Path, picture: Path, prompt: str, seed: int, steps: int, **asked: Any) -> NDArray[np.uint8]:
    """Pixels `[8, 8, 3]` of what `ptq-export sample --sampler ddim` writes to the file `picture`."""
    sample(run, Sampling(picture, 1, steps, "ddim", prompt=prompt, seed=seed, **asked), SILENT)
    grid = np.asarray(Image.open(picture))
    scale = grid.shape[0] // 10
    return grid[::scale, ::scale][1:-1, 1:-1]


def tokenizer() -> Tokenizer:
    """Words, cut and padded to `TOKENS`."""
    found = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, "</s>"))
    found.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    found.enable_truncation(TOKENS)
    found.enable_padding(length=TOKENS, pad_id=0, pad_token="</s>")
    return found
