"""Folders that diffusers saved: a `UNet2DModel` with its scheduler's configuration, or a pipeline that has both."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ptq_export.artifacts import read_json
from ptq_export.checkpoints.reading import read_weights
from ptq_export.checkpoints.schedule import noise_schedule
from ptq_export.checkpoints.told import ASSUMED
from ptq_export.checkpoints.unet import build_unet, sample_shape, with_variance
from ptq_export.checkpoints.weights import Format, Weights
from ptq_export.denoiser import Denoiser, NoiseSchedule
from ptq_export.errors import InputError

__all__ = ["DIFFUSERS", "read_folder"]

_NAME = "diffusers UNet2DModel"
_STEM = "diffusion_pytorch_model"
_WEIGHT_FILES = (f"{_STEM}.safetensors", f"{_STEM}.fp16.safetensors", f"{_STEM}.bin")
_NO_SCHEDULER = f"{ASSUMED}, for no scheduler_config.json is beside the net: predict=eps, betas=linear, timesteps=1000"
_RESOLUTION = 32
_BEFORE_0_11 = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


def read_folder(path: Path, spec: str) -> Weights:
    """The net of a diffusers folder: `path` itself or its `unet/`, with the scheduler found there or beside it.

    Raises:
        InputError: the folder is no diffusers net, or its files are damaged.
    """
    net = path if (path / "config.json").exists() else path / "unet"
    if not (net / "config.json").exists():
        raise InputError(
            f"{path} is not a diffusers folder: no config.json, no unet/config.json", "give a net's folder"
        )
    file = next((net / name for name in _WEIGHT_FILES if (net / name).exists()), None)
    if file is None:
        raise InputError(f"{net} holds none of {', '.join(_WEIGHT_FILES)}", "save it in one file, with save_pretrained")
    found = (net / "scheduler_config.json", net.parent / "scheduler" / "scheduler_config.json")
    scheduler = next((_json(candidate) for candidate in found if candidate.exists()), {})
    return replace(read_weights(file, spec), config=_json(net / "config.json"), scheduler=scheduler)


def _matches(weights: Weights) -> bool:
    return bool(weights.config) or any(name.startswith("down_blocks.0.resnets.0.") for name in weights.tensors)


def _load(weights: Weights, resolution: int | None, _: Mapping[str, str]) -> Denoiser:
    path = str(weights.path)
    if not weights.config:
        raise InputError(f"{path} holds a diffusers net without its config.json", "give the folder that has both")
    if (kind := weights.config.get("_class_name", "net of unknown class")) != "UNet2DModel":
        raise InputError(f"{path} is a {kind}, which is not supported yet", "give a folder of a UNet2DModel")
    config = {name: value for name, value in weights.config.items() if not name.startswith("_")}
    notes = []
    if config.get("sample_size") is None and resolution is None:
        config["sample_size"] = _RESOLUTION
        notes.append(f"resolution {_RESOLUTION} assumed, config.json has no sample_size; --resolution sets another")
    if not weights.scheduler:
        notes.append(_NO_SCHEDULER)
    schedule = noise_schedule(weights.scheduler, path) if weights.scheduler else NoiseSchedule()
    old = any(re.search(r"attentions\.\d+\.query\.", name) for name in weights.tensors)
    module = build_unet(config, weights.tensors, path, _name_before_0_11 if old else str)
    shape = sample_shape(module, resolution, path)
    source = weights.source(_NAME, config, *notes)
    return Denoiser(module, with_variance(schedule, module), shape, source, config.get("num_class_embeds"))


DIFFUSERS = Format(_NAME, _matches, _load)


def _name_before_0_11(name: str) -> str:
    """Attention blocks had other names in diffusers' first versions; google/ddpm-cifar10-32 still has them."""
    for new, old in _BEFORE_0_11.items():
        name = name.replace(new, old)
    return name


def _json(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except InputError as error:
        raise InputError(error.cause, "copy or download the folder again") from error
