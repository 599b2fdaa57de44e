"""Networks of one structure are exported once per test run, whoever asks: it takes most of the time of a tiny run.

One structure means all that a network is, its pickle, but the values of its parameters and buffers: those are put into
the kept graph by their names. Only a value that is not in that graph under its name (the exporter computed with it, or
left it out) must be the same. One that is there and was computed with elsewhere, too, would be missed, and fail the
proofs of its run. What cannot be pickled is exported each time.
"""

import hashlib
import io
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn

from ptq_export.interface import Input
from ptq_export.pairs import Pairs

__all__ = ["Export", "once"]

Export = Callable[[nn.Module, Pairs, Sequence[Input]], ir.Model]


def once(export: Export, folder: Path) -> Export:
    """`export_module` of `ptq_export/graph/export.py`, its graphs kept in `folder`, which processes may share."""

    def export_once(module: nn.Module, example: Pairs, inputs: Sequence[Input]) -> ir.Model:
        own = _own(module)
        structure = _key((module.eval(), example, tuple(inputs)), own)
        if structure is None:
            return export(module, example, inputs)
        told = folder / f"{structure}.json"
        if told.exists():
            fixed = json.loads(told.read_text())
            path = _graph(folder, structure, own, fixed)
            if path.exists():
                free = {name: tensor for name, tensor in own.items() if name not in fixed}
                return _filled(ir.from_proto(onnx.load(path)), free)
        model = export(module, example, inputs)
        fixed = [name for name, tensor in own.items() if not _stands(model, name, tensor)]
        content = ir.to_proto(model).SerializeToString()
        _write(_graph(folder, structure, own, fixed), content)
        _write(told, json.dumps(fixed).encode())
        return ir.from_proto(onnx.load_from_string(content))

    return export_once


def _own(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)),
        **dict(module.named_buffers(remove_duplicate=False)),
    }


def _stands(model: ir.Model, name: str, tensor: Tensor) -> bool:
    value = model.graph.initializers.get(name)
    return value is not None and value.const_value is not None and value.const_value.tobytes() == _bytes(tensor)


def _graph(folder: Path, structure: str, own: Mapping[str, Tensor], fixed: Iterable[str]) -> Path:
    """Where the graph lies whose tensors `fixed` have the values that they have in `own`."""
    digest = hashlib.sha256()
    for name in fixed:
        digest.update(_bytes(own[name]))
    return folder / f"{structure}-{digest.hexdigest()}.onnx"


def _filled(model: ir.Model, tensors: Mapping[str, Tensor]) -> ir.Model:
    for name, tensor in tensors.items():
        model.graph.initializers[name].const_value = ir.tensor(_array(tensor), name=name)
    return model


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all."""
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)


def _array(tensor: Tensor) -> np.ndarray[Any, Any]:
    found: np.ndarray[Any, Any] = tensor.detach().contiguous().numpy()
    return found


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


class _Pickler(pickle.Pickler):
    """Writes of each tensor its kind, its number among those seen so far, and its name, or without one its bytes; sets
    in order."""

    def __init__(self, file: io.BytesIO, own: Mapping[str, Tensor]) -> None:
        super().__init__(file)
        self._names = {id(tensor): name for name, tensor in own.items()}
        self._seen: dict[int, tuple[int, Tensor]] = {}  # the tensor too, so that no other takes its id

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, str):
            return sys.intern(value)  # a pickle tells strings apart that are equal and not the same
        if isinstance(value, set | frozenset):
            return type(value).__name__, sorted(map(repr, value))
        if isinstance(value, FrozenDict):  # a configuration, and in no order which of it are defaults
            return sorted((name, repr(told)) for name, told in value.items() if name != "_use_default_values")
        if not isinstance(value, Tensor):
            return None
        number, _ = self._seen.setdefault(id(value), (len(self._seen), value))
        content = self._names.get(id(value)) or _bytes(value)
        return type(value).__name__, number, str(value.dtype), tuple(value.shape), value.stride(), content


def _key(value: object, own: Mapping[str, Tensor]) -> str | None:
    file = io.BytesIO()
    try:
        _Pickler(file, own).dump(value)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None
    return hashlib.sha256(file.getvalue()).hexdigest()
