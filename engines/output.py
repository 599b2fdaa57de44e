"""Where an engine's answer is written, if the caller says so."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from ptq_export.engines.feeds import is_tensor, type_name
from ptq_export.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["device_output", "host_output", "written"]

Rows = TypeVar("Rows", NDArray[np.float32], "Tensor")


def host_output(out: Any, shape: tuple[int, ...], feeds: Mapping[str, NDArray[Any]]) -> NDArray[np.float32]:
    """The memory of `out`, an array or a tensor of the host, as an array.

    Raises:
        InputError: it is not contiguous, writable float32 of that shape, or shares memory with an input.
    """
    _require_fitting(out, shape, "cpu")
    array: NDArray[np.float32] = out.detach().numpy() if is_tensor(out) else out
    if not array.flags.writeable:
        raise InputError("out cannot be written to", "give an array of your own")
    _require_apart([name for name, value in feeds.items() if np.may_share_memory(value, array)])
    return array


def device_output(out: Any, shape: tuple[int, ...], feeds: "Mapping[str, Tensor]") -> "Tensor":
    """`out`, a tensor on the device of `feeds`, which are contiguous.

    Raises:
        InputError: it is not contiguous float32 of that shape there, or shares memory with an input.
    """
    _require_fitting(out, shape, str(next(iter(feeds.values())).device))
    tensor: Tensor = out.detach()
    _require_apart([name for name, value in feeds.items() if _overlap(value, tensor)])
    return tensor


def written(eps: Rows, out: Rows | None) -> Rows:
    """`out` with `eps` in it; where there is none, `eps`."""
    if out is None:
        return eps
    out[...] = eps
    return out


def _require_fitting(out: Any, shape: tuple[int, ...], device: str) -> None:
    tensor = is_tensor(out)
    if not (tensor or isinstance(out, np.ndarray)):
        raise InputError(f"out is {type_name(out)}", f"give a float32 array or tensor {list(shape)}")
    found = (type_name(out), tuple(out.shape), str(out.device) if tensor else "cpu")
    contiguous = out.is_contiguous() if tensor else out.flags.c_contiguous
    if found != ("float32", shape, device) or not contiguous:
        told = f"out is {found[0]} {list(found[1])} on {found[2]}{'' if contiguous else ', not contiguous'}"
        raise InputError(told, f"this call writes contiguous float32 {list(shape)} on {device}")


def _require_apart(shared: list[str]) -> None:
    if shared:
        raise InputError(f"out shares its memory with {shared[0]}, which is read meanwhile", "give another array")


def _overlap(one: "Tensor", other: "Tensor") -> bool:
    first, second = (range(it.data_ptr(), it.data_ptr() + it.nbytes) for it in (one, other))
    return first.start < second.stop and second.start < first.stop
