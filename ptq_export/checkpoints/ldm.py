"""CompVis/latent-diffusion checkpoints: OpenAI's U-Net inside a Lightning module with its EMA, betas and autoencoder.

`model.diffusion_model.*` is the net, `model_ema.*` its average under names without dots, `betas` the noise schedule,
`first_stage_model.*` the autoencoder, of which nothing is read: samples are latents, times `scale_factor`. Such a net
learns no variance, and is sampled by DDIM without clipping (`ldm/models/diffusion/ddim.py`).
"""

from collections.abc import Mapping
from dataclasses import replace

from ptq_export.checkpoints.assume import Assumable
from ptq_export.checkpoints.conventions import LATENT_DIFFUSION
from ptq_export.checkpoints.ldm_conditional import load_conditional
from ptq_export.checkpoints.ldm_parts import NET, averaged, net_of, scale_of, schedule_in, under
from ptq_export.checkpoints.openai import openai_denoiser, resolution_of
from ptq_export.checkpoints.openai_flags import ASSUMABLE, Flags, with_assumptions
from ptq_export.checkpoints.openai_layout import Layout, read_layout
from ptq_export.checkpoints.openai_published import Published
from ptq_export.checkpoints.told import SCHEDULE_KEYS, assumption_notes, described
from ptq_export.checkpoints.weights import Format, Weights
from ptq_export.denoiser import Denoiser, NoiseSchedule

__all__ = ["LDM", "PUBLISHED"]

_NAME = "CompVis/latent-diffusion"
_ASSUMABLE: Assumable = {
    key: values for key, values in ASSUMABLE.items() if key in ("heads", "head-width", "qkv", *SCHEDULE_KEYS)
}


def _matches(weights: Weights) -> bool:
    return any(name.startswith(NET) and ".input_blocks.0.0." in name for name in weights.tensors)


def _load(weights: Weights, resolution: int | None, assume: Mapping[str, str]) -> Denoiser:
    path, live = str(weights.path), net_of(weights)
    if any(".transformer_blocks." in name for name in live):
        return load_conditional(averaged(weights, live), weights, resolution, assume)
    layout = read_layout(live, path)
    published = next((entry for entry in PUBLISHED.values() if entry.layout == layout), None)
    whose = published.files if published else "most published nets of this code"
    flags = with_assumptions(published.flags if published else _USUAL, assume, layout, path)
    every, schedule = _schedule(weights, layout, flags, assume)
    net = averaged(weights, live)
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


def _not_read(weights: Weights) -> list[str]:
    """What else the file has, and what that makes of the samples."""
    parts = [part for part in ("first_stage_model", "cond_stage_model") if under(weights, f"{part}.")]
    factor = scale_of(weights)
    scaled = "" if factor in (None, 1) else f", times scale_factor = {factor:.6g}"
    return [f"{' and '.join(parts)} not read: " * bool(parts) + f"samples are latents{scaled}"]


def _schedule(
    weights: Weights, layout: Layout, flags: Flags, assume: Mapping[str, str]
) -> tuple[dict[str, str], NoiseSchedule]:
    """What of `flags` the file does not tell, in the words of `--assume`; and the schedule of its betas."""
    variance = "learned_range" if layout.learned_variance else "fixed_small"
    schedule = NoiseSchedule(
        beta_schedule="scaled_linear",
        beta_start=0.0015,
        beta_end=0.0195,
        clip_sample=False,
        variance_type=variance,
        settings=LATENT_DIFFUSION,
    )
    schedule = schedule_in(weights, schedule, {"predict": flags.predict, **assume})
    every = {key: value for key, value in flags.as_assumptions().items() if key in _ASSUMABLE} | described(schedule)
    by_file = ("betas", "timesteps") if "betas" in weights.tensors else ()
    known = SCHEDULE_KEYS.keys() if weights.scheduler else set(by_file)
    return {key: value for key, value in every.items() if key not in known}, schedule
