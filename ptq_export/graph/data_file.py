"""What an ONNX graph says of its weights in another file, held to what it may say, before anything reads them.

Engines open that file themselves, by the name in the graph: so the name is the graph's own with `.data`, in its folder,
and a regular file that is no link; each weight lies inside it, has the size of its type and shape, and shares no byte
with another (else a small file could ask for any amount of memory).
"""

import stat
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from ptq_export.artifacts import data_beside, sha256_file
from ptq_export.errors import InputError

__all__ = ["check_data", "name_data"]

REMEDY = "copy both files again, or export it again"
FIELDS = frozenset({"location", "offset", "length", "checksum"})


def check_data(proto: onnx.ModelProto, path: Path, sha256: str | None) -> None:
    """Make sure that the model read from `path` keeps its weights in itself or in the file beside it, which has the
    digest `sha256` that the model states.

    Raises:
        InputError: it does not; the message names the file, and the weight.
    """
    outside = [(tensor, is_weight) for tensor, is_weight in _tensors(proto) if _is_outside(tensor)]
    if not outside:
        return
    data = data_beside(path)
    if sha256 is None:
        told = f"{path} keeps its weights in another file and does not state the sha256 of that"
        raise InputError(told, "save it with all weights in one file, or export it again with this package")
    if not all(is_weight for _, is_weight in outside):
        raise InputError(f"{path} keeps values that are no weights in another file", "save them in the graph")
    regions = [_region(tensor, path, data.name) for tensor, _ in outside]
    size_bytes = _require_plain(data, path)
    end, before = 0, ""
    for start, length, name in sorted(regions):
        if start + length > size_bytes:
            told = f"{data} has {size_bytes} bytes, and {name!r} would lie at {start} to {start + length}"
            raise InputError(f"{told}: it is cut off, or another model's", REMEDY)
        if start < end and length:
            raise InputError(f"{path} lets {name!r} and {before!r} share bytes of {data.name}", "export it again")
        end, before = max(end, start + length), name
    if _sha256(data) != sha256:
        raise InputError(f"{data} is damaged, or another model's: its sha256 is not the one in {path.name}", REMEDY)


def name_data(proto: onnx.ModelProto, name: str) -> None:
    """Let a model look for its weights under another name."""
    for tensor, _ in _tensors(proto):
        for entry in tensor.external_data:
            entry.value = name if entry.key == "location" else entry.value


def _require_plain(data: Path, path: Path) -> int:
    """The size of the data file in bytes."""
    try:
        found = data.lstat()
    except (OSError, ValueError) as error:
        raise InputError(f"{data} cannot be read: {path.name} keeps its weights there ({error})", REMEDY) from error
    if stat.S_ISLNK(found.st_mode) or found.st_nlink > 1:  # onnx-ir and ONNX Runtime follow none either
        raise InputError(f"{data} is a link", "put the file itself there")
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{data} is no file: {path.name} keeps its weights there", REMEDY)
    return found.st_size


def _sha256(data: Path) -> str:
    try:
        return sha256_file(data)
    except OSError as error:
        raise InputError(f"{data} cannot be read: {error.strerror}", "make it readable") from error


def _region(tensor: onnx.TensorProto, path: Path, wanted: str) -> tuple[int, int, str]:
    """Offset and length in bytes of a weight in the data file, and its name."""
    name = tensor.name[:80]
    said = {entry.key: entry.value for entry in tensor.external_data}
    if len(said) != len(tensor.external_data) or not FIELDS.issuperset(said):
        raise InputError(f"{path} says of {name!r} twice, or in unknown words, where it lies", "export it again")
    if said.get("location") != wanted:
        found = said.get("location", "")[:80]
        raise InputError(f"{path} keeps {name!r} in {found!r}", f"weights are read from {wanted} beside it alone")
    numbers = [said.get(key, "0" if key == "offset" else "") for key in ("offset", "length")]
    if not all(text.isascii() and text.isdecimal() and len(text) < 19 for text in numbers):
        raise InputError(f"{path} does not say in numbers where {name!r} lies in {wanted}", "export it again")
    offset, length = map(int, numbers)
    if length != _size_bytes(tensor):
        shown = "x".join(map(str, tensor.dims))[:80] or "one number"
        raise InputError(f"{path} gives {name!r}, {shown}, {length} bytes of {wanted}", "export it again")
    return offset, length, name


def _size_bytes(tensor: onnx.TensorProto) -> int | None:
    """What a tensor takes by its type and shape; None for types whose numbers are no whole bytes, and text."""
    try:
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type))
    except (KeyError, TypeError, ValueError):
        return None
    four_bits = kind.name in ("int4", "uint4", "float4_e2m1fn", "int2", "uint2")
    known = not (kind.hasobject or four_bits) and all(size >= 0 for size in tensor.dims)
    return kind.itemsize * prod(tensor.dims) if known else None


def _is_outside(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data)


def _tensors(proto: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, bool]]:
    """Every tensor of a model, those of subgraphs, functions, training and attributes as well; and whether it is a
    weight of the graph or of a graph in its nodes."""
    waiting: list[tuple[Any, bool]] = [(proto.graph, True), *((function, False) for function in proto.functions)]
    waiting += [(graph, False) for each in proto.training_info for graph in (each.initialization, each.algorithm)]
    while waiting:
        part, runs = waiting.pop()
        if isinstance(part, onnx.GraphProto):
            yield from ((tensor, runs) for tensor in part.initializer)
            for sparse in part.sparse_initializer:
                yield from ((sparse.values, False), (sparse.indices, False))
        attributes = [attribute for node in part.node for attribute in node.attribute]
        if isinstance(part, onnx.FunctionProto):
            attributes += part.attribute_proto
        for attribute in attributes:
            yield from ((tensor, False) for tensor in (attribute.t, *attribute.tensors))
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from ((sparse.values, False), (sparse.indices, False))
            waiting += [(graph, runs) for graph in (attribute.g, *attribute.graphs)]
