"""Checkpoints of latent diffusion with cross-attention: Stable Diffusion 1 and 2, SDXL, and nets that see a class.

`cond_stage_model` (SDXL: `conditioner.embedders`) makes what the net attends to: a text tower, or a table with one row
per class (`ClassEmbedder`). `first_stage_model` is the autoencoder.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from ptq_export.artifacts import digest
from ptq_export.checkpoints.clip_text import require_width, text_of
from ptq_export.checkpoints.clip_tokens import find_tokens
from ptq_export.checkpoints.clip_towers import build_tower, find_towers
from ptq_export.checkpoints.conditional_unet import ConditionalEps, build_conditional_unet, images_of
from ptq_export.checkpoints.fit import require_finite, require_plain
from ptq_export.checkpoints.latent_denoiser import Around, latent_denoiser
from ptq_export.checkpoints.ldm_decoder import read_ldm_decoder
from ptq_export.checkpoints.ldm_layout import conditional_config, in_words_of_diffusers, projects_linearly
from ptq_export.checkpoints.ldm_parts import scale_of, schedule_in, under
from ptq_export.checkpoints.openai_flags import Flags
from ptq_export.checkpoints.text_to_image_sizes import STABLE_DIFFUSION
from ptq_export.checkpoints.told import assumption_notes, described
from ptq_export.checkpoints.unet import sample_shape
from ptq_export.checkpoints.weights import Weights
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.errors import InputError
from ptq_export.interface import label
from ptq_export.text_to_image import STATES

__all__ = ["ClassTable", "load_conditional"]

_NAME = "CompVis/latent-diffusion"
_TABLE = "cond_stage_model.embedding.weight"
_SCALE, _SCALE_OF_SDXL = 0.18215, 0.13025
"""Of the latents, where the file does not say it: `scale_factor` in the authors' configurations."""

_LATENTS, _LATENTS_OF_V, _LATENTS_OF_SDXL = 64, 96, 128
"""The sizes that were published: 512, 768 (Stable Diffusion 2 with v) and 1024 pixels."""

_HEADS = ("heads", "head-width")
_PROBED = 16


class ClassTable(nn.Module):
    """A net that attends to one row of a table: `ClassEmbedder` (`ldm/modules/encoders/modules.py`)."""

    def __init__(self, net: ConditionalEps, table: Tensor) -> None:
        super().__init__()
        self.net = net
        self.table = nn.Embedding(len(table), table.shape[1], _weight=table)

    def forward(self, sample: Tensor, timestep: Tensor, label: Tensor) -> Tensor:
        """eps `[N, C, h, w]` of `sample` `[N, C, h, w]` at `timestep` `[N]` and labels `[N]`."""
        output: Tensor = self.net(sample, timestep, self.table(label)[:, None])
        return output


def load_conditional(net: Weights, file: Weights, resolution: int | None, assume: Mapping[str, str]) -> Denoiser:
    """The denoiser of a net with the tensors `net`, of the checkpoint `file`.

    Raises:
        EnvironmentMissing: the extra `text` was not installed.
        InputError: a part is missing or of another kind, or there is nothing such to assume.
    """
    if "qkv" in assume:
        raise InputError("--assume qkv: a net with cross-attention has q, k and v apart", "leave it out")
    path, table = str(file.path), file.tensors.get(_TABLE)
    usual = {"head-width": "64"} if projects_linearly(net.tensors) else {"heads": "8" if table is None else "1"}
    heads = {key: assume[key] for key in _HEADS if key in assume} or usual
    config = conditional_config(net.tensors, partial(_heads_over, heads, path), path)
    module = build_conditional_unet(config, in_words_of_diffusers(net.tensors, config, path), path)
    read = _Read(net, file, module, heads, assume)
    return _of_prompts(read, resolution) if table is None else _of_classes(read, table, resolution)


@dataclass(frozen=True)
class _Read:
    """The net of a checkpoint, and what is assumed of it."""

    net: Weights
    file: Weights
    module: ConditionalEps
    heads: Mapping[str, str]
    assume: Mapping[str, str]

    @property
    def config(self) -> Mapping[str, Any]:
        return cast(Mapping[str, Any], self.module.unet.config)

    def schedule(self, usual: NoiseSchedule) -> NoiseSchedule:
        return schedule_in(self.file, usual, self.assume)

    def source(self, schedule: NoiseSchedule, whose: str, *notes: str) -> Source:
        """With notes on all that is assumed but what `notes`, which follow, say themselves."""
        known = {"betas", "timesteps"} if "betas" in self.file.tensors else set()
        known |= {"predict"} if any(note.startswith("predict=") for note in notes) else set()
        words = {key: value for key, value in described(schedule).items() if key not in known}
        every = {**self.heads, **({} if self.file.scheduler else words)}
        return self.net.source(_NAME, self.config, *assumption_notes(every, self.assume, whose), *notes)


def _heads_over(told: Mapping[str, str], path: str, width: int) -> int:
    count, each = (int(told[key]) if key in told else None for key in _HEADS)
    flags = Flags(heads=count, head_width=each)
    if len(told) > 1 or not (found := flags.heads_over(width)):
        asked = " and ".join(f"{key}={value}" for key, value in told.items())
        raise InputError(f"{path}: attention over {width} channels cannot be split by {asked}", "give --assume heads=N")
    return found


def _of_classes(read: _Read, table: Tensor, resolution: int | None) -> Denoiser:
    """A net that sees one of so many classes; of the autoencoder nothing is read."""
    path, wanted = str(read.file.path), read.config["cross_attention_dim"]
    require_plain(_TABLE, table, path)
    require_finite({_TABLE: table}, path)
    if table.dim() != 2 or table.shape[1] != wanted:
        cause = f"{path}: the table {_TABLE} is {list(table.shape)}, and the net takes rows of {wanted}"
        raise InputError(cause, "the file is incomplete, or belongs to another net")
    schedule = read.schedule(replace(STABLE_DIFFUSION, beta_start=0.0015, beta_end=0.0195))
    notes = ["first_stage_model not read: samples are latents"]
    if resolution is None:
        notes.append(f"resolution {_LATENTS} of the latents assumed; --resolution sets another")
    module = ClassTable(read.module, table.float().clone()).eval().requires_grad_(False)
    shape = sample_shape(read.module, resolution or _LATENTS, path)
    source = read.source(schedule, "as in the authors' cin256-v2", *notes)
    return Denoiser(module, schedule, shape, source, (label(len(table)),))


def _of_prompts(read: _Read, resolution: int | None) -> Denoiser:
    path, pooled = str(read.file.path), read.config["addition_embed_type"] is not None
    towers = find_towers(read.file, pooled)
    if not towers:
        cause = f"{path}: what makes its prompts (cond_stage_model) is no text encoder of CLIP or OpenCLIP"
        raise InputError(f"{cause}, or not in the file", "give the whole checkpoint, or a diffusers pipeline's folder")
    encoders = [build_tower(tower, read.file, pooled, pooled and tower is towers[-1]) for tower in towers]
    tokens = [
        find_tokens(read.file.path, encoder.tokens, encoder.vocabulary, tower.pad)
        for tower, encoder in zip(towers, encoders, strict=True)
    ]
    require_width(encoders, read.config["cross_attention_dim"], path)
    text = text_of(encoders, tokens, zeros=pooled)
    told, usual = scale_of(read.file), _SCALE_OF_SDXL if pooled else _SCALE
    decoder = read_ldm_decoder(under(read.file, "first_stage_model."), usual if told is None else told, path)
    around = Around(decoder.channels, decoder.factor, text.tokens[0].length, encoders[-1].pooled, text, decoder)
    schedule = read.schedule(STABLE_DIFFUSION)
    notes: list[str] = []
    if read.config["use_linear_projection"] and not (pooled or "predict" in read.assume or read.file.scheduler):
        schedule, note = _prediction(read, schedule, text.encode([""])[STATES], decoder.channels)
        notes.append(note)
    source = read.source(schedule, "as in Stable Diffusion's configurations", *notes)
    source = replace(source, sha256=digest([source.sha256, *(each.text for each in tokens)]))
    if resolution is None:
        of_v = _LATENTS_OF_V if schedule.prediction_type == "v_prediction" else _LATENTS
        resolution = decoder.factor * (_LATENTS_OF_SDXL if pooled else of_v)
    return latent_denoiser(read.module, around, schedule, resolution, source)


@torch.no_grad()
def _prediction(read: _Read, schedule: NoiseSchedule, states: Tensor, channels: int) -> tuple[NoiseSchedule, str]:
    """`schedule` with what the net predicts, and a note on how that was told: Stable Diffusion 2 was published with eps
    and with v, and its tensors look the same. At the last time-step the sample is noise, which eps is and v is not."""
    last = schedule.num_train_timesteps - 1
    size, path = (_PROBED, _PROBED), str(read.file.path)
    noise = torch.randn(1, channels, *size, generator=torch.Generator().manual_seed(0))
    behind = sum(int(each.shape[0]) for each in images_of(read.config, channels, size, path))
    answer = read.module.unet(
        torch.cat([noise, noise.new_zeros(1, behind, *size)], 1), torch.tensor([last]), states, return_dict=False
    )[0]
    share = float((answer * noise).sum() / noise.square().sum())
    word, prediction = ("eps", "epsilon") if share > 0.5 else ("v", "v_prediction")
    told = f"predict={word} assumed: of pure noise at t = {last} the net answers {share:.2f} times the noise, 1 for eps"
    return replace(schedule, prediction_type=prediction), f"{told}; --assume predict=eps|v sets another"
