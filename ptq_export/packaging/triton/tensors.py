"""Arrays to and from Triton's Python backend, by torch's DLPack.

Triton before 24.12 knows no numpy 2 (https://github.com/triton-inference-server/python_backend/pull/384): what it makes
of an array is empty, what it hands out as one repeats its first number. DLPack is right with every Triton; numpy's own
capsules it leaves unfreed, torch's it does not.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.dlpack import from_dlpack

__all__ = ["array_of", "dlpack_of"]


def array_of(tensor: Any) -> NDArray[Any]:
    """The array of a `pb_utils.Tensor`, as a copy: its memory is the server's."""
    return np.copy(from_dlpack(tensor.to_dlpack()).numpy())


def dlpack_of(array: NDArray[Any]) -> torch.Tensor:
    """What `pb_utils.Tensor.from_dlpack` takes of an array."""
    return torch.from_numpy(np.ascontiguousarray(array))
