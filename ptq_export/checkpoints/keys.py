"""Reading an architecture off tensor names and shapes; what is absent is named as the file would call it."""

import re
from collections.abc import Mapping

from torch import Tensor

from ptq_export.errors import InputError

__all__ = ["count", "shape_of"]

_INCOMPLETE = "the file is incomplete"
_OTHER_NET = "the file belongs to another net"


def count(tensors: Mapping[str, Tensor], prefix: str, path: str) -> int:
    """How many N there are in `prefix`N: they must be 0, 1, 2, ..."""
    pattern = re.compile(re.escape(prefix) + r"([0-9]{1,4})\.")
    found = {int(match[1]) for name in tensors if (match := pattern.match(name))}
    if found != set(range(len(found))) or not found:
        absent = min(set(range(len(found) + 1)) - found)
        raise InputError(f"{path} lacks the tensors {prefix}{absent}.*", _INCOMPLETE)
    return len(found)


def shape_of(tensors: Mapping[str, Tensor], name: str, kind: str, path: str) -> tuple[int, ...]:
    """The shape of the weight of a `kind`: "convolution" (outputs, inputs, height, width), "linear layer" or "table".

    Raises:
        InputError: no such tensor, or one of another number of dimensions.
    """
    if name not in tensors:
        raise InputError(f"{path} lacks the tensors {name}", _INCOMPLETE)
    shape = tuple(tensors[name].shape)
    if len(shape) != (4 if kind == "convolution" else 2):
        raise InputError(f"{path}: the tensor {name} has the shape {list(shape)}, not that of a {kind}", _OTHER_NET)
    return shape
