"""A step on memory that the caller owns and writes in place: nothing is allocated, copied or looked up at a call."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from ptq_export.engines.feeds import is_tensor, require_values
from ptq_export.engines.lifetime import Resident
from ptq_export.errors import InputError

if TYPE_CHECKING:
    from ptq_export.engines.base import Feeds, Signature

__all__ = ["BoundStep", "require_in_place"]

Out = TypeVar("Out")


class BoundStep(Generic[Out]):
    """`step()` computes what the inputs hold by then into `out`, and returns that. For one thread at a time: its memory
    is one step's; another thread binds memory of its own."""

    def __init__(
        self, engine: Resident, signature: "Signature", feeds: "Feeds", out: Out, compute: Callable[[], object]
    ) -> None:
        self.out = out
        self._engine, self._signature, self._feeds, self._compute = engine, signature, feeds, compute

    def __call__(self) -> Out:
        """`out`, computed.

        Raises:
            InputError: an input holds NaN, infinite values or integers out of range by now; or the engine is closed, or
                another process's.
        """
        self._engine.require_alive()
        require_values(self._signature.inputs, self._signature.num_train_timesteps, self._feeds)
        self._compute()
        return self.out


def require_in_place(given: Mapping[str, Any], feeds: Mapping[str, NDArray[Any]]) -> None:
    """Refuse inputs that `feeds` hold copies of.

    Raises:
        InputError: with the name and what it must be.
    """
    for name, array in feeds.items():
        value = given[name]
        found = value.data_ptr() if is_tensor(value) else _address(value) if isinstance(value, np.ndarray) else None
        if found != _address(array) or not array.flags.writeable:
            wanted = f"a contiguous, writable {array.dtype} array or tensor of the host, {list(array.shape)}"
            raise InputError(f"{name} would be a copy, which nobody writes the next step into", f"give {wanted}")


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
