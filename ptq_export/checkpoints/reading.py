"""The only file that opens checkpoints: `torch.load(weights_only=True)` or safetensors, never a fallback."""

import argparse
import pickle
import re
import types
import warnings
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from ptq_export.checkpoints.bounds import is_torchscript, require_held, require_uncompressed
from ptq_export.checkpoints.state_dict import unwrap
from ptq_export.checkpoints.weights import Weights
from ptq_export.errors import InputError

__all__ = ["read_shards", "read_weights"]

_BEGINNING = 4096
_VARIANCE_PRESERVING = "give a net of the variance-preserving kind with T time-steps (DDPM, DDIM, IDDPM, ADM, LDM)"
_ZIP, _PICKLE, _GGUF = b"PK", b"\x80", b"GGUF"
_SETTINGS: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [argparse.Namespace, types.SimpleNamespace]
"""In which trainers keep their flags: attributes, and no code."""
_COPY_AGAIN = "copy or download the file again and compare its sha256"
_SAVE_TENSORS = "save the tensors alone: torch.save(model.state_dict(), 'weights.pt') or safetensors' save_file"
_FLOATS = "give the float weights that it was quantised from, as safetensors or a diffusers folder"
_SAVE_FOLDER = "where you trust it, load it and give the folder that model.save_pretrained('folder') writes"


def read_weights(path: Path, spec: str, wanted: Callable[[Weights], bool] | None = None) -> Weights:
    """The tensors of a torch or safetensors file, told apart by the first bytes; nothing in the file is executed.

    A file can be read in several ways (`unwrap`): taken is the first that is `wanted`, else the first.

    Raises:
        InputError: absent, empty, damaged or foreign file, or a pickle that refers to anything but tensors; or one that
            claims more than it holds.
    """
    content, metadata = _read(path)
    return _first(Weights(spec, path, {}, metadata=metadata), content, path.stat().st_size, wanted)


def read_shards(
    index: Path, shards: Mapping[Path, Collection[str]], spec: str, wanted: Callable[[Weights], bool] | None = None
) -> Weights:
    """The tensors of a net that is saved in several files, each with the names that the file `index` says it has.

    Raises:
        InputError: as `read_weights`, or a file that has other names.
    """
    tensors: dict[str, Any] = {}
    for path, names in shards.items():
        content, _ = _read(path)
        if not isinstance(content, Mapping) or set(content) != set(names):
            raise InputError(f"{path} does not hold the tensors that {index.name} says it has", _COPY_AGAIN)
        tensors.update(content)
    size_bytes = sum(path.stat().st_size for path in shards)
    return _first(Weights(spec, index, {}, parts=tuple(shards)), tensors, size_bytes, wanted)


def _first(file: Weights, content: object, size_bytes: int, wanted: Callable[[Weights], bool] | None) -> Weights:
    """The first wanted reading of `content`, as what `file` holds."""
    ways = [replace(file, tensors=t, ema=ema, notes=notes) for t, ema, notes in unwrap(content, str(file.path))]
    weights = next((way for way in ways if wanted is None or wanted(way)), ways[0])
    require_held(weights.tensors, file.path, size_bytes)
    return weights


def _read(path: Path) -> tuple[object, Mapping[str, str]]:
    """What a file holds, and the metadata of a safetensors header."""
    head = _head(path)
    return _read_safetensors(path) if head[8:9] == b"{" else (_read_torch(path, head), {})


def _head(path: Path) -> bytes:
    try:
        if not path.exists():
            raise InputError(f"{path} does not exist", "check the path given as checkpoint")
        if not path.is_file():
            raise InputError(f"{path} is not a regular file", "give a checkpoint file or a diffusers folder")
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}", "check the path and its permissions") from error
    if not head:
        raise InputError(f"{path} is empty", _COPY_AGAIN)
    return head


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            return tensors, file.metadata() or {}
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path} is a damaged or truncated safetensors file: {error}", _COPY_AGAIN) from error


def _read_torch(path: Path, head: bytes) -> object:
    """Whatever was saved, as long as it is made of tensors and plain containers."""
    if head.startswith(_GGUF):
        raise InputError(f"{path} is a GGUF file, which holds codes in place of weights", _FLOATS)
    if head.startswith(_ZIP):
        if is_torchscript(path):
            raise InputError(f"{path} is a TorchScript archive, which holds code and not a state dict", _SAVE_TENSORS)
        require_uncompressed(path)
    safe = torch.serialization.safe_globals([*_SETTINGS, *_OWNERS])
    with safe, warnings.catch_warnings(), path.open("rb") as file:  # given the path, torch.load goes by its suffix
        warnings.simplefilter("ignore")  # torch warns before it refuses; the refusal below says more
        try:
            content: object = torch.load(file, map_location="cpu", weights_only=True)
        # damaged bytes surface as KeyError, OSError, RuntimeError, EOFError, UnpicklingError and others
        except Exception as error:
            raise _refusal(path, head, error) from error
    return content


class _StandIn:
    """In place of a class that Lightning names as the owner of a callback's state; it has no code."""


_OWNERS = [
    (_StandIn, f"{package}.callbacks.{name}")
    for package in ("pytorch_lightning", "lightning.pytorch")
    for name in ("model_checkpoint.ModelCheckpoint", "early_stopping.EarlyStopping")
]
"""Lightning before 1.5, which wrote latent-diffusion's files, has these classes themselves among the keys."""


def _refusal(path: Path, head: bytes, error: Exception) -> InputError:
    """Why torch's safe loader gave up; its own text is withheld, for it advises to load the file unsafely."""
    if _holds_its_own_code(path):
        cause = (
            f"{path} is a pickle of NVlabs' torch_utils.persistence (EDM, EDM2, StyleGAN): it runs code that it carries"
        )
        return InputError(
            f"{cause}, and EDM's nets, of a continuous noise level, are not supported", _VARIANCE_PRESERVING
        )
    if isinstance(error, pickle.UnpicklingError):
        if named := re.search(r"GLOBAL ([\w.]+)", str(error)):
            cause = f"{path} refers to {named[1]}: loading it could run code, so it is refused"
            return InputError(cause, _SAVE_FOLDER if named[1].startswith("diffusers.") else _SAVE_TENSORS)
        if head.startswith(_PICKLE):
            return InputError(f"{path} is a bare pickle: loading it could run code, so it is refused", _SAVE_TENSORS)
    if head.startswith((_ZIP, _PICKLE)):
        return InputError(f"{path} is damaged or truncated, or no torch file at all", _COPY_AGAIN)
    return InputError(f"{path} is neither a torch file nor safetensors", "give a state dict or a diffusers folder")


def _holds_its_own_code(path: Path) -> bool:
    with path.open("rb") as file:
        return b"torch_utils.persistence" in file.read(_BEGINNING)
