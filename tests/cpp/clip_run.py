"""Text-to-image runs by hand with CLIP's tokenizers: one as Stable Diffusion has it, or two as SDXL, whose second one
makes the prompt as a whole, too. A condition that no prompt decides stands beside, with examples."""

import json
from pathlib import Path

import numpy as np
import onnx
from exported_net import inputs_of
from least import least_manifest
from nets_by_hand import net_by_hand
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tokenizers.pre_tokenizers import ByteLevel
from worded_run import DECODER, GRAPH, LATENTS, MOVED, PROMPTS, SCALE

from ptq_export.artifacts import describe_file
from ptq_export.checkpoints.clip_tokens import read_tokens
from ptq_export.denoiser import NoiseSchedule
from ptq_export.graph.prompt_file import save_split
from ptq_export.interface import Input, inputs_to_json
from ptq_export.text_to_image import TextParts
from ptq_export.tokens import Tokens

__all__ = ["LENGTH", "clip_run", "clip_tokens", "described_again", "vocabulary"]

LENGTH, ROWS = 12, 6
LETTERS = "aeilnoprst"
TEXT = Input("text", "float32", (LENGTH, 3))
WHOLE = Input("whole", "float32", (2,))
SIZES = Input("sizes", "float32", (2,))
NET = (
    """
<ir_version: 10, opset_import: ["": 18]>
net (float[batch,2,4,4] sample, int64[batch] timestep, float[batch,LENGTH,3] text, float[batch,2] whole,
     float[batch,2] sizes) => (float[batch,2,4,4] eps)
<float[1] small = {0.001}, int64[3] sides = {1, 2, 3}, int64[2] across = {2, 3}, int64[1] words = {1},
 float[3,2] w = {1,-1, 0.5,2, -2,1}, float[1,2,4,4] weight>
{
    read = MatMul(text, w)
    mean = ReduceMean <keepdims = 0> (read, words)
    told = Mul(mean, sizes)
    both = Add(told, whole)
    shift = Unsqueeze(both, across)"""
    + MOVED
)
ENCODER = """
<ir_version: 10, opset_import: ["": 18]>
encoder (int64[batch,LENGTH] input_ids) => (float[batch,LENGTH,3] text)
{
    text = Gather(table, input_ids)
}
"""
TWO_ENCODERS = """
<ir_version: 10, opset_import: ["": 18]>
encoder (int64[batch,LENGTH] input_ids, int64[batch,LENGTH] input_ids_2)
 => (float[batch,LENGTH,3] text, float[batch,2] whole)
<int64[1] words = {1}, float[3,2] w = {1,-1, 0.5,2, -2,1}>
{
    one = Gather(table, input_ids)
    other = Gather(table, input_ids_2)
    text = Sub(one, other)
    mean = ReduceMean <keepdims = 0> (other, words)
    whole = MatMul(mean, w)
}
"""


def clip_run(run: Path, two: bool = False, alike: bool = False) -> Path:
    """Pictures `[3, 8, 8]` of latents `[2, 4, 4]`; with `alike` the examples are all one."""
    run.mkdir(parents=True)
    conditions = (TEXT, WHOLE, SIZES) if two else (TEXT, SIZES)
    net = NET if two else NET.replace(" float[batch,2] whole,\n", "\n").replace("Add(told, whole)", "Identity(told)")
    save_split(net_by_hand(sized(net), LATENTS, *conditions), run / GRAPH)
    tokens = [clip_tokens(run.parent / f"{run.name}.{pad}", pad) for pad in (None, "!")[: 1 + two]]
    for name, each in zip(("tokenizer.json", "tokenizer.2.json"), tokens, strict=False):
        (run / name).write_text(each.text, encoding="utf-8")
    encoder = onnx.parser.parse_model(sized(TWO_ENCODERS if two else ENCODER))
    table = np.random.default_rng(0).standard_normal((len(vocabulary()), 3)).astype(np.float32)
    encoder.graph.initializer.append(onnx.numpy_helper.from_array(table, "table"))
    onnx.save(encoder, run / "text_encoder.onnx")
    onnx.save(onnx.parser.parse_model(DECODER), run / "decoder.onnx")
    save_file({"sizes": examples(alike), "sample": np.zeros((ROWS, 2, 4, 4), np.float32)}, run / "pairs.safetensors")
    made = ("text", "whole") if two else ("text",)
    denoiser = {
        **{"spec": "/home/someone/pipeline", "sha256": "", "notes": [], "sample_shape": list(LATENTS)},
        "inputs": inputs_to_json(inputs_of(LATENTS, *conditions)),
        "schedule": NoiseSchedule(prediction_type="sample", clip_sample=False).to_json(),
        "text": TextParts(made, len(tokens), SCALE, PROMPTS).to_json(),
    }
    (run / "manifest.json").write_text(json.dumps(least_manifest(artefacts={}, denoiser=denoiser)))
    return described_again(run)


def described_again(run: Path) -> Path:
    """The run with the digests of the files that it holds now."""
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["artefacts"] = {path.name: describe_file(path) for path in run.iterdir() if path.name != "manifest.json"}
    (run / "manifest.json").write_text(json.dumps(manifest))
    return run


def clip_tokens(folder: Path, pad: str | None = None) -> Tokens:
    """As `ptq-export` reads them of a pipeline's folder."""
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({token: at for at, token in enumerate(vocabulary())}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges(), ""]))
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": LENGTH}))
    return read_tokens(folder, LENGTH, len(vocabulary()), pad)


def merges() -> list[str]:
    """So many of so few letters that which comes first matters."""
    words = ["a p", "ap p", "l e</w>", "app le</w>", "r e", "re d</w>", "Ã ©", "Ġ a"]
    pairs = [f"{one} {other}" for one in LETTERS for other in reversed(LETTERS)]
    ends = [f"{one} {other}</w>" for one in LETTERS for other in LETTERS]
    longer = [f"{one}{other} {one}" for one in LETTERS for other in LETTERS]
    return list(dict.fromkeys([*words, *pairs, *ends, *longer]))


def vocabulary() -> list[str]:
    letters = sorted(ByteLevel.alphabet())
    made = [merge.replace(" ", "") for merge in merges()]
    ends = ("<|startoftext|>", "<|endoftext|>")
    return list(dict.fromkeys([*letters, *(f"{letter}</w>" for letter in letters), *made, *ends]))


def examples(alike: bool) -> NDArray[np.float32]:
    return np.full((ROWS, 2), 0.5, np.float32) if alike else np.arange(2 * ROWS, dtype=np.float32).reshape(ROWS, 2) / 8


def sized(text: str) -> str:
    return text.replace("LENGTH", str(LENGTH))
