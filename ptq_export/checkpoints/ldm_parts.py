"""What a checkpoint of CompVis' latent diffusion holds: the net, its average under names without dots, other parts."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ptq_export.checkpoints.betas import schedule_of_betas
from ptq_export.checkpoints.fit import require_plain
from ptq_export.checkpoints.told import with_schedule_of
from ptq_export.checkpoints.weights import Weights
from ptq_export.denoiser import NoiseSchedule
from ptq_export.errors import InputError

__all__ = ["NET", "averaged", "net_of", "scale_of", "schedule_in", "under"]

NET = ("model.diffusion_model.", "diffusion_model.")
_AVERAGE = "model_ema."


def net_of(weights: Weights) -> dict[str, Tensor]:
    """The net's tensors under their own names."""
    prefix = next(prefix for prefix in NET if any(name.startswith(prefix) for name in weights.tensors))
    return under(weights, prefix)


def under(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in weights.tensors.items() if name.startswith(prefix)}


def averaged(weights: Weights, live: Mapping[str, Tensor]) -> Weights:
    """`weights` with the tensors of the net alone: the average where the file has one of all of them, else `live`."""
    kept = under(weights, _AVERAGE)
    if not kept:
        return replace(weights, tensors=live, ema=None, notes=())
    wanted = {name: f"diffusion_model.{name}".replace(".", "") for name in live}
    absent = [key for name, key in wanted.items() if key not in kept or kept[key].shape != live[name].shape]
    if absent:
        note = f"model_ema does not fit the net ({absent[0]}, {len(absent)} in all): the live weights are used"
        return replace(weights, tensors=live, ema=False, notes=(note,))
    average = {name: kept[key] for name, key in wanted.items()}
    return replace(weights, tensors=average, ema=True, notes=(f"EMA weights, the {len(wanted)} tensors of model_ema",))


def scale_of(weights: Weights) -> float | None:
    """What latents are multiplied by, where the file says so.

    Raises:
        InputError: it is no float.
    """
    factor = weights.tensors.get("scale_factor", torch.ones(()))
    require_plain("scale_factor", factor, str(weights.path))
    return float(factor) if "scale_factor" in weights.tensors and factor.numel() == 1 else None


def schedule_in(weights: Weights, usual: NoiseSchedule, assume: Mapping[str, str]) -> NoiseSchedule:
    """`usual` with the betas of the file, if it has them, and with what `assume` says.

    Raises:
        InputError: both say what the betas are, or those of the file are none.
    """
    betas = weights.tensors.get("betas")
    told = [key for key in ("betas", "timesteps") if key in assume]
    if betas is None:
        return with_schedule_of(assume, usual)
    if told:
        cause = f"--assume {told[0]}: {weights.path} has its own betas"
        raise InputError(cause, "leave it out, or give --scheduler-config")
    return with_schedule_of(assume, schedule_of_betas(betas, usual, str(weights.path)))
