"""CompVis/latent-diffusion checkpoints: OpenAI's U-Net inside a Lightning module with its EMA, betas and autoencoder.

`model.diffusion_model.*` is the net, `model_ema.*` its average under names without dots, `betas` the noise schedule,
`first_stage_model.*` the autoencoder, of which nothing is read: samples are latents, times `scale_factor`. Such a net
learns no variance, and is sampled by DDIM without clipping (`ldm/models/diffusion/ddim.py`).
"""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ptq_export.checkpoints.assume import Assumable
from ptq_export.checkpoints.betas import schedule_of_betas
from ptq_export.checkpoints.conventions import LATENT_DIFFUSION
from ptq_export.checkpoints.fit import require_plain
from ptq_export.checkpoints.openai import openai_denoiser, resolution_of
from ptq_export.checkpoints.openai_flags import ASSUMABLE, Flags, with_assumptions
from ptq_export.checkpoints.openai_layout import Layout, read_layout
from ptq_export.checkpoints.openai_published import Published
from ptq_export.checkpoints.told import SCHEDULE_KEYS, assumption_notes, described, with_schedule_of
from ptq_export.checkpoints.weights import Format, Weights
from ptq_export.denoiser import Denoiser, NoiseSchedule
from ptq_export.errors import InputError

__all__ = ["LDM", "PUBLISHED"]

_NAME = "CompVis/latent-diffusion"
_NET = ("model.diffusion_model.", "diffusion_model.")
_AVERAGE = "model_ema."
_CLASSES = "cond_stage_model.embedding.weight"
_ASSUMABLE: Assumable = {
    key: values for key, values in ASSUMABLE.items() if key in ("heads", "head-width", "qkv", *SCHEDULE_KEYS)
}


def _matches(weights: Weights) -> bool:
    return any(name.startswith(_NET) and ".input_blocks.0.0." in name for name in weights.tensors)


def _load(weights: Weights, resolution: int | None, assume: Mapping[str, str]) -> Denoiser:
    path, live = str(weights.path), _net(weights)
    _refuse_conditions(weights, live, path)
    layout = read_layout(live, path)
    published = next((entry for entry in PUBLISHED.values() if entry.layout == layout), None)
    whose = published.files if published else "most published nets of this code"
    flags = with_assumptions(published.flags if published else _USUAL, assume, layout, path)
    every, schedule = _schedule(weights, layout, flags, assume)
    net = _averaged(weights, live)
    notes = [*_not_read(weights), *assumption_notes(every, assume, f"as in {whose}")]
    size, why = (published.resolution, f"that of {whose}") if published else resolution_of(layout)
    if resolution is None:
        notes.append(f"resolution {size} of the latents assumed: {why}; --resolution sets another")
    denoiser = openai_denoiser(net, layout, flags, resolution or size, notes)
    return replace(denoiser, schedule=schedule, source=replace(denoiser.source, format=_NAME))


LDM = Format(_NAME, _matches, _load, _ASSUMABLE)

_USUAL = Flags(head_width=32)
PUBLISHED = {  # configs/latent-diffusion, models/ldm
    "vq-f4": Published(
        "the CelebA-HQ, FFHQ and LSUN-Bedrooms nets (VQ-f4)",
        Layout(3, 3, 224, (224, 448, 672, 896), 2, (1, 2, 3), resblock_updown=False, scale_shift=False, classes=None),
        _USUAL,
        64,
    ),
    "kl-f8": Published(
        "the LSUN-Churches net (KL-f8)",
        Layout(4, 4, 192, (192, 384, 384, 768, 768), 2, (0, 1, 2, 3), True, True, None),
        Flags(heads=8),
        32,
    ),
}


def _net(weights: Weights) -> dict[str, Tensor]:
    """The net's tensors under their own names."""
    prefix = next(prefix for prefix in _NET if any(name.startswith(prefix) for name in weights.tensors))
    return _under(weights, prefix)


def _under(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.tensors.items() if name.startswith(prefix)}


def _refuse_conditions(weights: Weights, tensors: Mapping[str, Tensor], path: str) -> None:
    if not any(".transformer_blocks." in name for name in tensors):
        return
    table = weights.tensors.get(_CLASSES)
    seen = "a text" if table is None or table.dim() != 2 else f"one of {table.shape[0]} classes"
    cause = f"{path} is a latent-diffusion net that sees {seen} through cross-attention (transformer_blocks)"
    raise InputError(f"{cause}, which is not supported", "give an unconditional net, or one with label_emb")


def _averaged(weights: Weights, live: Mapping[str, Tensor]) -> Weights:
    """`weights` with the tensors of the net alone: the average where the file has one of all of them, else `live`."""
    kept = _under(weights, _AVERAGE)
    if not kept:
        return replace(weights, tensors=live, ema=None, notes=())
    wanted = {name: f"diffusion_model.{name}".replace(".", "") for name in live}
    absent = [key for name, key in wanted.items() if key not in kept or kept[key].shape != live[name].shape]
    if absent:
        note = f"model_ema does not fit the net ({absent[0]}, {len(absent)} in all): the live weights are used"
        return replace(weights, tensors=live, ema=False, notes=(note,))
    average = {name: kept[key] for name, key in wanted.items()}
    return replace(weights, tensors=average, ema=True, notes=(f"EMA weights, the {len(wanted)} tensors of model_ema",))


def _not_read(weights: Weights) -> list[str]:
    """What else the file has, and what that makes of the samples."""
    parts = [part for part in ("first_stage_model", "cond_stage_model") if _under(weights, f"{part}.")]
    factor = weights.tensors.get("scale_factor", torch.ones(()))
    require_plain("scale_factor", factor, str(weights.path))
    scaled = "" if factor.numel() != 1 or float(factor) == 1 else f", times scale_factor = {float(factor):.6g}"
    return [f"{' and '.join(parts)} not read: " * bool(parts) + f"samples are latents{scaled}"]


def _schedule(
    weights: Weights, layout: Layout, flags: Flags, assume: Mapping[str, str]
) -> tuple[dict[str, str], NoiseSchedule]:
    """What of `flags` the file does not tell, in the words of `--assume`; and the schedule of its betas."""
    path, betas = str(weights.path), weights.tensors.get("betas")
    variance = "learned_range" if layout.learned_variance else "fixed_small"
    schedule = NoiseSchedule(
        beta_schedule="scaled_linear",
        beta_start=0.0015,
        beta_end=0.0195,
        clip_sample=False,
        variance_type=variance,
        settings=LATENT_DIFFUSION,
    )
    told = [key for key in ("betas", "timesteps") if key in assume]
    if betas is not None:
        if told:
            raise InputError(
                f"--assume {told[0]}: {path} has its own betas", "leave it out, or give --scheduler-config"
            )
        schedule = schedule_of_betas(betas, schedule, path)
    schedule = with_schedule_of({"predict": flags.predict, **assume}, schedule)
    every = {key: value for key, value in flags.as_assumptions().items() if key in _ASSUMABLE} | described(schedule)
    by_file = ("betas", "timesteps") if betas is not None else ()
    known = SCHEDULE_KEYS.keys() if weights.scheduler else set(by_file)
    return {key: value for key, value in every.items() if key not in known}, schedule
