"""Equal networks are exported once per test run, whoever asks: the exporter takes most of the time of a tiny run.

Equal means all that a network is: its pickle, and in it every tensor by its bytes and by which others are the same one.
What cannot be pickled is exported each time.
"""

import hashlib
import io
import os
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import torch
from diffusers.configuration_utils import FrozenDict
from torch import nn

from ptq_export.interface import Input
from ptq_export.pairs import Pairs

__all__ = ["Export", "once"]

Export = Callable[[nn.Module, Pairs, Sequence[Input]], ir.Model]


def once(export: Export, folder: Path) -> Export:
    """`export_module` of `ptq_export/graph/export.py`, its graphs kept in `folder`, which processes may share."""

    def export_once(module: nn.Module, example: Pairs, inputs: Sequence[Input]) -> ir.Model:
        key = _key((module.eval(), example, tuple(inputs)))
        if key is None:
            return export(module, example, inputs)
        path = folder / f"{key}.onnx"
        if not path.exists():
            own = path.with_suffix(f".{os.getpid()}")
            own.write_bytes(ir.to_proto(export(module, example, inputs)).SerializeToString())
            own.replace(path)
        return ir.from_proto(onnx.load(path))

    return export_once


class _Pickler(pickle.Pickler):
    """Writes of each tensor its kind, its bytes and its number among those seen so far; sets in order."""

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self._seen: dict[int, tuple[int, torch.Tensor]] = {}  # the tensor too, so that no other takes its id

    def persistent_id(self, value: Any) -> Any:
        if isinstance(value, set | frozenset):
            return type(value).__name__, sorted(map(repr, value))
        if isinstance(value, FrozenDict):  # a configuration, and in no order which of it are defaults
            return sorted((name, repr(told)) for name, told in value.items() if name != "_use_default_values")
        if not isinstance(value, torch.Tensor):
            return None
        number, _ = self._seen.setdefault(id(value), (len(self._seen), value))
        content = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return type(value).__name__, number, str(value.dtype), tuple(value.shape), value.stride(), content


def _key(value: object) -> str | None:
    file = io.BytesIO()
    try:
        _Pickler(file).dump(value)
    except (pickle.PicklingError, AttributeError, TypeError):
        return None
    return hashlib.sha256(file.getvalue()).hexdigest()
