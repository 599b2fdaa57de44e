"""Named arrays of a `.safetensors` or `.npz` file of any origin: headers are judged before anything is allocated.

What an array claims to take must be what the file holds for it, at most `RATIO` times the file where that is
compressed, and must fit in the memory that is free. Numbers only: no objects, no complex numbers, no parts of bytes.
"""

import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from ptq_export.artifacts import require_regular
from ptq_export.errors import InputError

__all__ = ["Array", "read_arrays"]

RATIO, ALWAYS_BYTES = 100, 1 << 26
UNREADABLE = (
    *(OSError, EOFError, ValueError, TypeError, KeyError, RuntimeError, NotImplementedError, SyntaxError),
    *(MemoryError, RecursionError, OverflowError, SafetensorError, zipfile.BadZipFile, zlib.error),
)
FLOATS = {"F16": np.float16, "F32": np.float32, "F64": np.float64, "BF16": np.float32}
INTEGERS = {f"{kind}{bits}": np.dtype(f"{kind.lower()}{bits // 8}") for kind in "IU" for bits in (8, 16, 32, 64)}


@dataclass(frozen=True)
class Array:
    """An array that was not read yet: its `shape`, its type as the file calls it, and how to read it."""

    shape: tuple[int, ...]
    dtype: str
    is_float: bool
    read: Callable[[], NDArray[Any]]


def read_arrays(path: Path, names: Sequence[str], remedy: str) -> Mapping[str, Array]:
    """The arrays of these names.

    Raises:
        InputError: the file is no regular file, is damaged, lacks one of them, or one is of a type or size that is not
            read.
    """
    size_bytes = require_regular(path)
    try:
        found = (_npz if path.suffix == ".npz" else _safetensors)(path, names)
        if missing := [name for name in names if name not in found]:
            raise ValueError(f"it has no array {' and no array '.join(missing)}")
        room = max(ALWAYS_BYTES, RATIO * size_bytes), psutil.virtual_memory().available // 2
        for name, array in found.items():
            claimed = 4 * int(np.prod(array.shape, dtype=object))
            if claimed > min(room):
                raise ValueError(f"{name} claims the shape {list(array.shape)}, which takes {claimed / 1e9:.1f} GB")
    except UNREADABLE as error:
        raise InputError(f"calibration data {path} cannot be used: {error}", remedy) from error
    return {name: replace(array, read=partial(_read, path, array, remedy)) for name, array in found.items()}


def _read(path: Path, array: Array, remedy: str) -> NDArray[Any]:
    try:
        return array.read()
    except UNREADABLE as error:
        raise InputError(f"calibration data {path} cannot be used: {error}", remedy) from error


def _safetensors(path: Path, names: Sequence[str]) -> dict[str, Array]:
    found = {}
    with safe_open(path, framework="pt") as file:
        for name in set(names) & set(file.keys()):
            entry = file.get_slice(name)
            kind, shape = entry.get_dtype(), tuple(entry.get_shape())
            if kind not in FLOATS | INTEGERS:
                raise ValueError(f"{name} holds {kind}")
            found[name] = Array(shape, kind, kind in FLOATS, partial(_safetensor, path, name))
    return found


def _safetensor(path: Path, name: str) -> NDArray[Any]:
    with safe_open(path, framework="pt") as file:
        tensor = file.get_tensor(name)
    array: NDArray[Any] = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return array


def _npz(path: Path, names: Sequence[str]) -> dict[str, Array]:
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in set(names) & {entry.removesuffix(".npy") for entry in archive.namelist()}:
            entry = archive.getinfo(f"{name}.npy")
            with archive.open(entry) as file:
                shape, dtype = _npy_header(file)
                held = entry.file_size - file.tell()
            if dtype.kind not in "fiu" or dtype.itemsize > 8:
                raise ValueError(f"{name} holds {dtype}")
            if min(shape, default=1) < 0 or int(np.prod(shape, dtype=object)) * dtype.itemsize != held:
                raise ValueError(f"{name} claims the shape {list(shape)}, and the file holds {held} bytes of it")
            found[name] = Array(shape, str(dtype), dtype.kind == "f", partial(_npy, path, name))
    return found


def _npy_header(file: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"it is written in version {version} of numpy's format")
    shape, _, dtype = read(file)
    return shape, dtype


def _npy(path: Path, name: str) -> NDArray[Any]:
    with np.load(path, allow_pickle=False) as archive:
        array: NDArray[Any] = archive[name]
    return array.astype(array.dtype.newbyteorder("="))
