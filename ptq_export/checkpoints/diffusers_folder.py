"""Nets that diffusers saved: the folder of a `UNet2DModel`, a pipeline, a trainer's checkpoint, or a file of weights.

A trainer's checkpoint folder (`checkpoint-500/`) has the net as `unet/` and its averaged weights as `unet_ema/`; the
scheduler's configuration stands beside or above it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor
from torch.nn.functional import interpolate

from ptq_export.checkpoints.schedule import noise_schedule, schedule_notes
from ptq_export.checkpoints.told import ASSUMED
from ptq_export.checkpoints.unet import (
    build_unet,
    image_of,
    known_keys,
    label_of,
    names_in,
    sample_shape,
    with_variance,
)
from ptq_export.checkpoints.weight_files import find_weight_file, read_settings, read_weight_file
from ptq_export.checkpoints.weights import Format, Weights
from ptq_export.denoiser import Denoiser, NoiseSchedule
from ptq_export.errors import InputError
from ptq_export.interface import Input

__all__ = ["DIFFUSERS", "read_folder", "with_config"]

_NAME = "diffusers UNet2DModel"
_CLASS = "UNet2DModel"
_AVERAGES = "unet_ema"
_NETS = (".", _AVERAGES, "unet")
_SCHEDULER = "scheduler_config.json"
_SCHEDULERS = (
    *(_SCHEDULER, f"scheduler/{_SCHEDULER}"),
    *(f"../scheduler/{_SCHEDULER}", f"../{_SCHEDULER}", f"../../scheduler/{_SCHEDULER}"),
)
_NO_SCHEDULER = f"{ASSUMED}, for no scheduler_config.json is beside the net: predict=eps, betas=linear, timesteps=1000"
_RESOLUTION = 32
_IMAGES, _COARSE = 8, 4
_EMA_MODEL = ("decay", "optimization_step")  # what EMAModel.save_pretrained adds to config.json


def read_folder(path: Path, spec: str) -> Weights:
    """The net of a diffusers folder: `path` itself, its `unet_ema/` or its `unet/`, with the scheduler found around.

    Raises:
        InputError: the folder is no diffusers net, or its files are damaged.
    """
    nets = [path / name for name in _NETS if (path / name / "config.json").exists()]
    if not nets:
        raise InputError(f"{path} is not a diffusers folder: no config.json, no unet/config.json", _nets_below(path))
    net = next((net for net in nets if find_weight_file(net)), nets[0])
    weights = read_weight_file(net, spec, _has_names)
    pipeline = path if net != path else path.resolve().parent
    weights = replace(weights, config=read_settings(net / "config.json"), scheduler=_scheduler(net), pipeline=pipeline)
    return _told(weights, net)


def with_config(weights: Weights, config: Path | str | None) -> Weights:
    """A file of a `UNet2DModel`'s tensors with the configuration in the file `config`, or in the config.json beside it.

    Raises:
        InputError: `config` is given for another net, or is damaged.
    """
    if not _has_names(weights):
        if config is not None:
            raise InputError(f"--config is for {_CLASS}: {weights.path} holds another net", "leave --config out")
        return weights
    file = Path(config) if config is not None else weights.path.parent / "config.json"
    if config is None and not file.is_file():
        return weights
    settings = read_settings(file)
    if config is None and "block_out_channels" not in settings:
        return weights  # the configuration of something else
    beside = file.parent.resolve().parent
    weights = replace(weights, config=settings, scheduler=_scheduler(file.parent), pipeline=beside)
    return weights if config is not None else _told(weights, file.parent)


def _told(weights: Weights, net: Path) -> Weights:
    """`weights` with what the folder says of averages."""
    if weights.ema is not None:
        return weights
    if all(key in weights.config for key in _EMA_MODEL):
        note = f"EMA weights: {net.name}/config.json tells the decay {weights.config['decay']} of EMAModel"
        return replace(weights, ema=True, notes=(*weights.notes, note))
    if net.name == _AVERAGES:
        return replace(weights, ema=True, notes=(*weights.notes, f"EMA weights, from the folder {_AVERAGES}"))
    beside = net.resolve().parent / _AVERAGES
    if beside.is_dir() and find_weight_file(beside):
        note = f"unet_ema/ beside {net.name}/ has EMA weights, which are not used: give the folder of both to take them"
        return replace(weights, ema=False, notes=(*weights.notes, note))
    return weights


def _scheduler(net: Path) -> dict[str, Any]:
    found = (net / name for name in _SCHEDULERS)
    return next((read_settings(path) for path in found if path.is_file()), {})


def _nets_below(path: Path) -> str:
    """What to give instead of `path`: the newest of a trainer's checkpoint folders, if there are any."""
    below = sorted(path.glob("checkpoint-*"), key=lambda folder: (len(folder.name), folder.name))
    nets = [folder for folder in below if any((folder / name / "config.json").exists() for name in _NETS)]
    return f"give one of its checkpoints: {nets[-1]}" if nets else "give a net's folder"


def _has_names(weights: Weights) -> bool:
    return any(name.startswith("down_blocks.0.resnets.0.") for name in weights.tensors)


def _matches(weights: Weights) -> bool:
    return bool(weights.config) or _has_names(weights)


def _load(weights: Weights, resolution: int | None, _: Mapping[str, str]) -> Denoiser:
    path = str(weights.path)
    if not weights.config:
        cause = f"{path} holds a diffusers net without its config.json"
        raise InputError(cause, "put its config.json beside it, or name it with --config FILE")
    if (kind := weights.config.get("_class_name", _CLASS)) != _CLASS:
        raise InputError(f"{path} is a {kind}, which is not supported yet", f"give a folder of a {_CLASS}")
    config, notes = known_keys(weights.config, UNet2DModel)
    if config.get("sample_size") is None and resolution is None:
        config["sample_size"] = _RESOLUTION
        notes.append(f"resolution {_RESOLUTION} assumed, config.json has no sample_size; --resolution sets another")
    if not weights.scheduler:
        notes.append(_NO_SCHEDULER)
    schedule = noise_schedule(weights.scheduler, path) if weights.scheduler else NoiseSchedule()
    notes += schedule_notes(weights.scheduler)
    module = build_unet(config, weights.tensors, path, names_in(weights.tensors), images=True)
    if config.get("time_embedding_type") == "learned" and config["num_train_timesteps"] < schedule.num_train_timesteps:
        times = f"{config['num_train_timesteps']} time-steps, its noise schedule has {schedule.num_train_timesteps}"
        raise InputError(f"{path} has learned {times}", "give the scheduler configuration that it was trained with")
    shape = sample_shape(module, resolution, path)
    found = with_variance(schedule, module)
    if weights.scheduler and found != schedule:
        notes.append(_other_variance(schedule, found, shape[0], path))
    images = image_of(module, shape)
    if images:
        notes.append(f"{images[0]} stands behind the sample, as in diffusers' pipelines: its examples are drawn")
    source = weights.source(_NAME, config, *notes)
    return Denoiser(module, found, shape, source, (*label_of(config), *images), {it.name: _drawn(it) for it in images})


DIFFUSERS = Format(_NAME, _matches, _load)


def _drawn(image: Input) -> Tensor:
    """Smooth images in [-1, 1]: no net was trained with them."""
    channels, *size = (int(side) for side in image.shape)
    coarse = torch.randn(_IMAGES, channels, _COARSE, _COARSE, generator=torch.Generator().manual_seed(0))
    return interpolate(coarse, size, mode="bilinear").clamp(-1, 1)


def _other_variance(told: NoiseSchedule, found: NoiseSchedule, channels: int, path: str) -> str:
    """A note that the scheduler's variance is not the one that the net's outputs allow.

    Raises:
        InputError: the net makes N channels of N, N even, and a variance was learned: half of its input can be a
            condition then.
    """
    said = f"the scheduler's configuration says variance_type {told.variance_type}"
    if found.learns_variance:
        return f"{said}, and the net makes twice its channels: {found.variance_type}"
    if channels % 2:
        return f"{said}, and the net makes no variance: {found.variance_type}"
    kinds = f"{channels // 2} channels of a sample, and a condition of {channels // 2} beside it"
    raise InputError(
        f"{path}: {said}, and its net makes {channels} channels of {channels}, which may be {kinds}: not supported yet",
        f"if there is no condition, set variance_type in its {_SCHEDULER} to fixed_small",
    )
