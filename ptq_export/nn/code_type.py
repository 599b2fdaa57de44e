"""The integers of a grid, as data: how many bits, and whether they reach below zero (optimum-quanto's `qtype`)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ptq_export.errors import InputError

if TYPE_CHECKING:
    import torch

__all__ = ["INT8", "UINT8", "CodeType"]


@dataclass(frozen=True)
class CodeType:
    """Integers of `bits` bits."""

    name: str
    bits: int
    signed: bool

    @property
    def low(self) -> int:
        """The smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest code; symmetric grids use -high to high of signed ones."""
        return self.low + self.steps

    @property
    def steps(self) -> int:
        """From the smallest code to the largest."""
        return (1 << self.bits) - 1

    @property
    def reach(self) -> int:
        """How many steps lie on either side of the middle code, at least: what a symmetric grid has."""
        return self.steps // 2

    @property
    def middle(self) -> int:
        """The zero point of a symmetric grid."""
        return 0 if self.signed else self.high - self.reach

    @property
    def dtype(self) -> "torch.dtype":
        """What holds a code in torch; ONNX has a type of the same name.

        Raises:
            InputError: nothing does: no engine here has kernels for such codes.
        """
        import torch  # the command line lists targets, which name their codes, without it

        found = {"int8": torch.int8, "uint8": torch.uint8}.get(self.name)
        if found is None:
            raise InputError(f"no engine here has a kernel for {self.name} codes", "known: int8, uint8")
        return found


INT8 = CodeType("int8", 8, signed=True)
UINT8 = CodeType("uint8", 8, signed=False)
