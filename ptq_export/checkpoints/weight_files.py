"""Which of a diffusers folder's files holds the weights: variants (`.ema`, `.fp16`), safetensors or bin, or shards.

https://huggingface.co/docs/diffusers/using-diffusers/other-formats has the names.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ptq_export.artifacts import read_json
from ptq_export.checkpoints.averages import is_average
from ptq_export.checkpoints.reading import read_shards, read_weights
from ptq_export.checkpoints.weights import Weights
from ptq_export.errors import InputError

__all__ = ["find_weight_file", "read_settings", "read_weight_file"]

_STEMS = ("diffusion_pytorch_model", "model", "pytorch_model")
_KINDS = ("safetensors", "bin")
_FLOATS = ("fp32", "bf16", "fp16")
_FILE = re.compile(r"(?P<stem>[a-z_]+)(\.(?P<variant>\w+))?\.(?P<kind>[a-z]+)")
_INDEX = re.compile(r"(?P<stem>[a-z_]+)\.(?P<kind>[a-z]+)\.index(\.(?P<variant>\w+))?\.json")
_COPY_AGAIN = "copy or download the folder again"


class _Found(NamedTuple):
    """A file of weights; the order of the fields is the order of preference."""

    variant_rank: int
    stem_rank: int
    kind_rank: int
    sharded: bool
    variant: str
    path: Path


def find_weight_file(folder: Path) -> Path | None:
    """The best file of weights in `folder`: averages before others, the widest floats, safetensors; None if none is."""
    found = _found(folder)
    return found[0].path if found else None


def read_weight_file(folder: Path, spec: str, wanted: Callable[[Weights], bool]) -> Weights:
    """The tensors of the best file of weights in `folder`.

    Raises:
        InputError: there is none, it or one of its shards is damaged, or the index leads out of the folder.
    """
    found = _found(folder)
    if not found:
        names = f"{_STEMS[0]}.safetensors, {_STEMS[0]}.bin, a variant of them or an index of shards"
        raise InputError(f"{folder} holds no weights: none of {names}", "save the net with save_pretrained")
    best = found[0]
    weights = _read_sharded(best.path, spec, wanted) if best.sharded else read_weights(best.path, spec, wanted)
    if not best.variant:
        return weights
    ema = is_average(best.variant) if "ema" in best.variant else weights.ema
    kind = "EMA weights" if ema else "weights"
    return replace(weights, ema=ema, notes=(*weights.notes, f"{kind} of the variant {best.variant}: {best.path.name}"))


def read_settings(path: Path) -> dict[str, Any]:
    """A JSON object that belongs to a net.

    Raises:
        InputError: the file is absent or damaged.
    """
    try:
        return read_json(path, infinities=True)
    except InputError as error:
        raise InputError(error.cause, _COPY_AGAIN) from error
    except (RecursionError, ValueError) as error:
        raise InputError(f"{path} cannot be read: {error}", _COPY_AGAIN) from error


def _found(folder: Path) -> list[_Found]:
    found = []
    for path in folder.iterdir():
        for pattern, sharded in ((_INDEX, True), (_FILE, False)):
            name = pattern.fullmatch(path.name)
            if name and name["stem"] in _STEMS and name["kind"] in _KINDS:
                ranks = _variant_rank(name["variant"]), _STEMS.index(name["stem"]), _KINDS.index(name["kind"])
                found.append(_Found(*ranks, sharded, name["variant"] or "", path))
                break
    return sorted(found)


def _variant_rank(variant: str | None) -> int:
    if variant is None:
        return 1
    if is_average(variant):
        return 0
    return 2 + (_FLOATS.index(variant) if variant in _FLOATS else len(_FLOATS))


def _read_sharded(index: Path, spec: str, wanted: Callable[[Weights], bool]) -> Weights:
    """The tensors of all the files in an index: {"weight_map": {tensor name: file name}}."""
    names = read_settings(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(file, str) for file in names.values()):
        raise InputError(f"{index} is no index of shards: its weight_map does not name a file per tensor", _COPY_AGAIN)
    shards: dict[Path, list[str]] = {}
    for name, file in names.items():
        if Path(file).name != file:
            raise InputError(f"{index} names {file!r}, which is not a file of its folder", _COPY_AGAIN)
        shards.setdefault(index.parent / file, []).append(name)
    return read_shards(index, dict(sorted(shards.items())), spec, wanted)
