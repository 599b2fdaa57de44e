"""diffusers' pipelines around a `UNet2DConditionModel`: Stable Diffusion 1 and 2, SDXL, LCM, inpainting and kin.

A pipeline's folder has each part in a folder of its own, and names them in `model_index.json`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from diffusers import UNet2DConditionModel

from ptq_export.artifacts import digest
from ptq_export.checkpoints.clip_text import Clip, build_clip, require_width, text_of
from ptq_export.checkpoints.clip_tokens import read_tokens
from ptq_export.checkpoints.conditional_unet import CLASS, build_conditional_unet
from ptq_export.checkpoints.latent_decoder import build_decoder
from ptq_export.checkpoints.latent_denoiser import Around, latent_denoiser
from ptq_export.checkpoints.schedule import noise_schedule, schedule_notes
from ptq_export.checkpoints.strangers import refuse_strangers
from ptq_export.checkpoints.unet import known_keys
from ptq_export.checkpoints.weight_files import read_settings, read_weight_file
from ptq_export.checkpoints.weights import Format, Weights
from ptq_export.denoiser import Denoiser
from ptq_export.errors import InputError
from ptq_export.tokens import Tokens

__all__ = ["PIPELINE"]

_NAME = "diffusers UNet2DConditionModel"
_INDEX = "model_index.json"
_TOKENIZERS = {"text_encoder": "tokenizer", "text_encoder_2": "tokenizer_2"}
_USUAL = ("text_encoder", "tokenizer", "vae")
_OF_SDXL = ("text_encoder_2", "tokenizer_2")
_REMEDY = "give the pipeline's folder, which has text_encoder/, tokenizer/, vae/ and scheduler/ beside unet/"


def _matches(weights: Weights) -> bool:
    return weights.config.get("_class_name") == CLASS


def _load(weights: Weights, resolution: int | None, _: Mapping[str, str]) -> Denoiser:
    folder, path = weights.pipeline, str(weights.path)
    config, notes = known_keys(weights.config, UNet2DConditionModel)
    pooled = config.get("addition_embed_type") == "text_time"
    if folder is None:
        raise InputError(f"{path} is a {CLASS} without its text encoder", _REMEDY)
    index = read_settings(folder / _INDEX) if (folder / _INDEX).is_file() else {}
    encoders = _encoders(folder, index, pooled, path)
    if not weights.scheduler:
        raise InputError(
            f"{folder} lacks scheduler/, a part of the pipeline", "add it, or name --scheduler-config FILE"
        )
    schedule = noise_schedule(weights.scheduler, path)
    module = build_conditional_unet(config, weights.tensors, path)
    prompts = [_read_prompts(folder, name, pooled and name == encoders[-1]) for name in encoders]
    zeros = pooled and index.get("force_zeros_for_empty_prompt", True) is True
    encoded = [each.encoder for each in prompts]
    text = text_of(encoded, [each.tokens for each in prompts], zeros)
    require_width(encoded, cast(Mapping[str, Any], module.unet.config)["cross_attention_dim"], str(folder))
    vae = _read_part(folder / "vae", weights.spec)
    decoder = build_decoder(vae.config, vae.tensors, str(vae.path))
    source = weights.source(_NAME, config, *notes, *schedule_notes(weights.scheduler))
    digests = [[name, each.sha256] for name, each in zip(encoders, prompts, strict=True)]
    sha256 = digest([["unet", source.sha256], ["vae", _sha256(vae)], *digests, zeros])
    around = Around(decoder.channels, decoder.factor, text.tokens[0].length, encoded[-1].pooled, text, decoder)
    return latent_denoiser(module, around, schedule, resolution, replace(source, sha256=sha256))


PIPELINE = Format(_NAME, _matches, _load)


@dataclass(frozen=True)
class _Prompts:
    """A text encoder with its tokenizer, and the sha256 of both."""

    encoder: Clip
    tokens: Tokens
    sha256: str


def _encoders(folder: Path, index: Mapping[str, Any], pooled: bool, path: str) -> list[str]:
    """The names of the text encoders: those of model_index.json, else those that such a net has.

    Raises:
        InputError: there are none, or a part is missing.
    """
    named = {name for name, value in index.items() if isinstance(value, list) and any(value)}
    usual = _USUAL + _OF_SDXL if pooled else _USUAL
    encoders = [name for name in _TOKENIZERS if name in (named or usual)]
    if not encoders or (pooled and "text_encoder_2" not in encoders):
        kind = index.get("_class_name", "a pipeline")
        raise InputError(f"{folder}: {kind!s:.60} without the text encoder of its kind is not supported", _REMEDY)
    wanted = ["vae", *encoders, *(_TOKENIZERS[name] for name in encoders)]
    missing = [part for part in wanted if not (folder / part).is_dir()]
    if len(missing) == len(wanted):
        raise InputError(f"{path} is a {CLASS} without its text encoder", _REMEDY)
    if missing:
        raise InputError(f"{folder} lacks {missing[0]}/, a part of the pipeline", "copy or download the folder again")
    return encoders


def _read_prompts(folder: Path, name: str, projected: bool) -> _Prompts:
    weights = _read_part(folder / name, name)
    encoder = build_clip(weights.config, weights.tensors, str(weights.path), projected)
    tokens = read_tokens(folder / _TOKENIZERS[name], encoder.tokens, encoder.vocabulary)
    return _Prompts(encoder, tokens, digest([_sha256(weights), tokens.text]))


def _sha256(part: Weights) -> str:
    """Of the weights of a part and of its configuration."""
    return digest([part.sha256(), dict(part.config)])


def _read_part(folder: Path, spec: str) -> Weights:
    """The weights of a part with its configuration."""
    weights = read_weight_file(folder, spec, lambda _: True)
    weights = replace(weights, config=read_settings(folder / "config.json"))
    refuse_strangers(weights)
    return weights
