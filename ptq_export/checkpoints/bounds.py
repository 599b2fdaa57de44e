"""What a file may claim, bounded by what it has: nothing is unpacked or laid out that its own bytes do not pay for."""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from ptq_export.errors import InputError

__all__ = [
    "is_torchscript",
    "require_enough_layers",
    "require_enough_tensors",
    "require_held",
    "require_memory",
    "require_uncompressed",
]

_SAVE_AGAIN = "load it where it was made and save it again with torch.save"
_SHARED = 2
_TENSORS_PER_BLOCK = 8  # of UNet2DModel's residual blocks: two norms and two convolutions, each with a bias


def require_uncompressed(path: Path) -> None:
    """Refuse a torch file whose records unpack to more than the file itself; torch writes them as they are.

    The archive must begin at the first byte and end without a comment, so that torch's reader, which looks for the
    records where their directory says, finds those that are looked at here.

    Raises:
        InputError: records that are compressed, overlap or are not where torch puts them, or no archive at all.
    """
    records, comment = _records(path)
    unpacked, size = sum(record.file_size for record in records), path.stat().st_size
    if unpacked > size or any(record.compress_type != zipfile.ZIP_STORED for record in records):
        sizes = f"from {_size(size)} to {_size(unpacked)}"
        raise InputError(f"{path} unpacks {sizes}: torch writes each record once, uncompressed", _SAVE_AGAIN)
    if comment or min((record.header_offset for record in records), default=0):
        raise InputError(f"{path} is an archive inside another file, as torch never writes them", _SAVE_AGAIN)


def is_torchscript(path: Path) -> bool:
    """Whether the torch file is one that `torch.jit.save` wrote, as torch itself tells.

    Raises:
        InputError: it is no archive.
    """
    return any(record.filename.endswith("/constants.pkl") for record in _records(path)[0])


def require_held(tensors: Mapping[str, Tensor], path: Path, size_bytes: int) -> None:
    """Refuse tensors of more values than their file holds: views that repeat a few bytes, or many views of the same.

    A tensor that several names share is fine, up to twice the file.

    Raises:
        InputError: the first tensor that claims more than it has, or all of them together.
    """
    total = 0
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_meta:
            continue  # `fit` refuses them by name
        claimed = tensor.numel() * tensor.element_size()
        total += claimed
        if claimed > tensor.untyped_storage().nbytes():
            cause = f"{path}: the tensor {name} repeats few values up to the shape {list(tensor.shape)}"
            raise InputError(cause, "save contiguous tensors: tensor.clone()")
    if total > _SHARED * size_bytes:
        cause = f"{path} has {_size(size_bytes)}, but its tensors would take {_size(total)}"
        raise InputError(cause, "save contiguous tensors: tensor.clone()")


def require_enough_tensors(config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str) -> None:
    """Refuse a `UNet2DModel` of more residual blocks than the file has tensors for, before one of them is laid out.

    Raises:
        InputError: it has too few tensors.
    """
    widths, layers = config.get("block_out_channels", ()), config.get("layers_per_block", 1)
    if not isinstance(widths, list | tuple) or not isinstance(layers, int):
        return  # which diffusers refuses by name
    blocks = len(widths) * (2 * max(layers, 0) + 1)
    if blocks * _TENSORS_PER_BLOCK > len(tensors):
        cause = f"{path} has {len(tensors)} tensors, its configuration asks for {blocks} residual blocks and more"
        raise InputError(cause, "the file belongs to another net, or is incomplete")


def require_enough_layers(asked: int, tensors: Mapping[str, Tensor], path: str) -> None:
    """Refuse a configuration that asks for more layers than the file has tensors, before one of them is laid out.

    Raises:
        InputError: it does.
    """
    if asked > len(tensors):
        cause = f"{path} has {len(tensors)} tensors, its configuration asks for {asked} layers"
        raise InputError(cause, "the file belongs to another net, or is incomplete")


def require_memory(values: int, path: str) -> None:
    """Refuse a net whose first layer answers one sample with more float32 `values` than this machine has memory for.

    Raises:
        InputError: it has not.
    """
    if (size := 4 * values) > (memory := psutil.virtual_memory().total):
        cause = f"{path}: one sample takes {_size(size)} in the net's first layer, of {_size(memory)} here"
        raise InputError(cause, "give a smaller --resolution")


def _records(path: Path) -> tuple[list[zipfile.ZipInfo], bytes]:
    """The records and the comment of an archive, without unpacking any."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.infolist(), archive.comment
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        cause = f"{path} is damaged or truncated, or no torch file at all"
        raise InputError(cause, "copy or download the file again and compare its sha256") from error


def _size(count: int) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"
