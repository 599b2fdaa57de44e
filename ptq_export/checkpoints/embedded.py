"""The trained models that the package carries.

`embedded:digits` is safetensors that describe themselves: a `UNet2DModel`'s and a scheduler's arguments in the header,
as JSON; `examples/train_digits.py` writes them. `embedded:emoji` is a pipeline's folder as diffusers saves it, with
prompts to calibrate with and how it was trained; `examples/train_emoji.py` writes it.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from ptq_export.artifacts import read_json
from ptq_export.checkpoints.assume import NOTHING
from ptq_export.checkpoints.diffusers_folder import read_folder
from ptq_export.checkpoints.pipeline_folder import PIPELINE
from ptq_export.checkpoints.reading import read_weights
from ptq_export.checkpoints.schedule import noise_schedule
from ptq_export.checkpoints.unet import build_unet, label_of, sample_shape, with_variance
from ptq_export.checkpoints.weights import Format, Weights
from ptq_export.denoiser import Denoiser
from ptq_export.errors import InputError
from ptq_export.lookup import lookup

__all__ = ["ASSETS", "EMBEDDED", "SELF_DESCRIBING", "load_embedded"]

_NAME = "ptq-export/unet2d"
ASSETS = Path(str(resources.files("ptq_export"))) / "assets"
EMBEDDED = {"digits": "digits.safetensors", "emoji": "emoji"}
_PROMPTS, _TRAINING = "prompts.txt", "training.json"


def load_embedded(name: str, resolution: int | None) -> Denoiser:
    """The trained model called `name` that the package carries.

    Raises:
        InputError: no such model (the message offers the nearest), or an incomplete installation.
    """
    path = ASSETS / lookup("embedded model", name, EMBEDDED)
    if not path.exists():
        raise InputError(f"this installation lacks the embedded model {path.name}", "install ptq-export again")
    if path.is_dir():
        return _load_pipeline(path, f"embedded:{name}", resolution)
    return _load(read_weights(path, f"embedded:{name}"), resolution, NOTHING)


def _load_pipeline(folder: Path, spec: str, resolution: int | None) -> Denoiser:
    training = read_json(folder / _TRAINING)
    weights = replace(read_folder(folder, spec), ema=training.get("ema"))
    found = PIPELINE.load(weights, resolution, NOTHING)
    prompts = tuple((folder / _PROMPTS).read_text(encoding="utf-8").splitlines())
    note = "trained with " + ", ".join(f"{name} = {value}" for name, value in training.items() if name != "guidance")
    source = replace(found.source, notes=(*found.source.notes, note))
    text = found.text and replace(found.text, scale=float(training["guidance"]), prompts=prompts)
    return replace(found, text=text, source=source)


def _matches(weights: Weights) -> bool:
    return weights.metadata.get("format") == _NAME


def _load(weights: Weights, resolution: int | None, _: Mapping[str, str]) -> Denoiser:
    path = str(weights.path)
    config = _header(weights, "unet")
    module = build_unet(config, weights.tensors, path)
    schedule = with_variance(noise_schedule(_header(weights, "scheduler"), path), module)
    training = _header(weights, "training")
    weights = replace(weights, ema=training.get("ema"))
    note = "trained with " + ", ".join(f"{name} = {value}" for name, value in training.items())
    shape = sample_shape(module, resolution, path)
    return Denoiser(module, schedule, shape, weights.source(_NAME, config, note), label_of(config))


SELF_DESCRIBING = Format(_NAME, _matches, _load)


def _header(weights: Weights, key: str) -> dict[str, Any]:
    try:
        value = json.loads(weights.metadata[key])
    except (KeyError, ValueError, RecursionError) as error:  # absent, damaged, a number or a nesting without end
        raise InputError(f"{weights.path} has no readable {key!r} in its header", "write the file again") from error
    if not isinstance(value, dict):
        raise InputError(f"{weights.path} has no JSON object as {key!r} in its header", "write the file again")
    return value
