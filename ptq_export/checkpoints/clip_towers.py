"""The text towers inside checkpoints of Stable Diffusion: OpenAI's CLIP under transformers' names, and OpenCLIP's.

OpenCLIP (`open_clip/transformer.py`) keeps q, k and v in one matrix. Stable Diffusion 2 takes the states before its
last layer, behind the final norm (`FrozenOpenCLIPEmbedder`, "penultimate"): that layer is left out here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ptq_export.checkpoints.clip_text import Clip, build_clip
from ptq_export.checkpoints.keys import count, shape_of
from ptq_export.checkpoints.weights import Weights

__all__ = ["Tower", "build_tower", "find_towers"]

_HEAD_WIDTH = 64  # of every CLIP that was published
_LAYERS = "text_model.encoder.layers."
_NAMES = {
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.": "text_model.embeddings.token_embedding.",
    "ln_final.": "text_model.final_layer_norm.",
    "transformer.resblocks.": _LAYERS,
}
_IN_LAYERS = {"ln_": "layer_norm", "mlp.c_fc.": "mlp.fc1.", "mlp.c_proj.": "mlp.fc2.", "attn.out_": "self_attn.out_"}
_QKV = re.compile(r"(.+)\.attn\.in_proj_(weight|bias)")
_UNREAD = ("logit_scale", "attn_mask")


@dataclass(frozen=True)
class Tower:
    """Where a checkpoint has one, and what its kind is: `pad` is the token that fills up a prompt."""

    prefix: str
    is_open_clip: bool
    pad: str


_OPENAI_PAD, _OPEN_CLIP_PAD = "<|endoftext|>", "!"
_OF_ONE = (
    Tower("cond_stage_model.transformer.", False, _OPENAI_PAD),
    Tower("cond_stage_model.model.", True, _OPEN_CLIP_PAD),
)
_OF_SDXL = (
    Tower("conditioner.embedders.0.transformer.", False, _OPENAI_PAD),
    Tower("conditioner.embedders.0.model.", True, _OPEN_CLIP_PAD),
    Tower("conditioner.embedders.1.model.", True, _OPEN_CLIP_PAD),
)


def find_towers(weights: Weights, pooled: bool) -> list[Tower]:
    """The towers of a checkpoint, of SDXL's kind if `pooled`; none where it has none that is known."""
    tables = ("embeddings.token_embedding.weight", "token_embedding.weight")
    return [
        tower
        for tower in (_OF_SDXL if pooled else _OF_ONE)
        if any(name.startswith(tower.prefix) and name.endswith(tables) for name in weights.tensors)
    ]


def build_tower(tower: Tower, weights: Weights, pooled: bool, projected: bool) -> Clip:
    """The tower as transformers' `CLIPTextModel`, or with `projected` its `CLIPTextModelWithProjection`.

    Raises:
        EnvironmentMissing: the extra `text` was not installed.
        InputError: its tensors are no tower's.
    """
    path = str(weights.path)
    own = {
        name.removeprefix(tower.prefix): value
        for name, value in weights.tensors.items()
        if name.startswith(tower.prefix)
    }
    if tower.is_open_clip:
        own = _in_words_of_transformers(own, path, drop_last=not pooled)
    own = {name if name.startswith("text_") else f"text_model.{name}": value for name, value in own.items()}
    act = "gelu" if tower.is_open_clip else "quick_gelu"
    return build_clip({**_config(own, projected, path), "hidden_act": act}, own, path, projected)


def _in_words_of_transformers(tensors: Mapping[str, Tensor], path: str, drop_last: bool) -> dict[str, Tensor]:
    last = f"{_LAYERS}{count(tensors, 'transformer.resblocks.', path) - 1}."
    found: dict[str, Tensor] = {}
    for name, value in tensors.items():
        if name in _UNREAD:
            continue
        for theirs, ours in _NAMES.items():
            if name.startswith(theirs):
                name = ours + name.removeprefix(theirs)
        if name.startswith(_LAYERS):
            for theirs, ours in _IN_LAYERS.items():
                name = name.replace(f".{theirs}", f".{ours}")
        if qkv := _QKV.fullmatch(name):
            parts = value.chunk(3) if value.dim() else [value] * 3
            found |= {f"{qkv[1]}.self_attn.{part}_proj.{qkv[2]}": it for part, it in zip("qkv", parts, strict=False)}
        elif name == "text_projection":
            found["text_projection.weight"] = value.T if value.dim() == 2 else value
        else:
            found[name] = value
    return {name: value for name, value in found.items() if not (drop_last and name.startswith(last))}


def _config(tensors: Mapping[str, Tensor], projected: bool, path: str) -> dict[str, Any]:
    """Sizes, by the shapes; the highest token ends a prompt, as in both authors' code."""
    vocabulary, width = shape_of(tensors, "text_model.embeddings.token_embedding.weight", "table", path)
    config = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": shape_of(tensors, f"{_LAYERS}0.mlp.fc1.weight", "linear layer", path)[0],
        "num_hidden_layers": count(tensors, _LAYERS, path),
        "num_attention_heads": max(1, width // _HEAD_WIDTH),
        "max_position_embeddings": shape_of(tensors, _NAMES["positional_embedding"], "table", path)[0],
        "eos_token_id": 2,
    }
    if projected:
        config["projection_dim"] = shape_of(tensors, "text_projection.weight", "linear layer", path)[0]
    return config
