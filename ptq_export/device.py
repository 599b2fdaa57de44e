"""Where calibration computes, and in which arithmetic: ranges and codes are those of IEEE float32 on every device.

TF32 has 10 bits of mantissa: convolutions, which torch gives it by default, would move every range. float16 and
bfloat16 autocast would too, so calibration uses no mixed precision at all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ptq_export.errors import EnvironmentMissing

__all__ = ["exact_floats", "find_device"]


def find_device(name: str) -> torch.device:
    """The torch device called `name`, cpu or cuda.

    Raises:
        EnvironmentMissing: torch finds no such device here.
    """
    if name == "cuda" and not torch.cuda.is_available():
        if torch.version.cuda is None:
            cause, remedy = "this torch is a CPU build", "pip install torch, without an index of CPU builds"
        else:
            cause, remedy = "torch finds no NVIDIA GPU", "check that nvidia-smi lists one"
        raise EnvironmentMissing(
            f"--device cuda: {cause}", f"{remedy}; or leave out --device cuda: the CPU needs more time"
        )
    return torch.device(name)


@contextmanager
def exact_floats() -> Iterator[None]:
    """No TF32 and no order of summation that changes from call to call, while the block (or the function) runs."""
    matmul = torch.backends.cuda.matmul
    cudnn: Any = torch.backends.cudnn
    before = matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.deterministic
    matmul.fp32_precision = cudnn.conv.fp32_precision = "ieee"
    cudnn.deterministic = True
    try:
        yield
    finally:
        matmul.fp32_precision, cudnn.conv.fp32_precision, cudnn.deterministic = before
