"""Whether this processor computes in bfloat16."""

from ptq_export.errors import EnvironmentMissing
from ptq_export.processor import instruction_sets

__all__ = ["missing_bf16"]

BF16 = frozenset({"avx512_bf16", "amx_bf16"})


def missing_bf16() -> EnvironmentMissing | None:
    """None where it does; else what is missing, and the remedy."""
    if BF16 & set(instruction_sets()):
        return None
    return EnvironmentMissing(f"this processor has neither of {', '.join(sorted(BF16))}", "measure on one that has")
