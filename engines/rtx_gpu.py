"""Whether the GPU here is one that TensorRT for RTX serves: GeForce and workstation GPUs, no data centre's."""

from ptq_export.engines.gpu import describe_gpu, missing_gpu
from ptq_export.errors import EnvironmentMissing

__all__ = ["missing_rtx_gpu", "serves"]

AMPERE_AND_ADA = frozenset({(8, 0), (8, 6), (8, 9)})
BLACKWELL = 12


def missing_rtx_gpu() -> EnvironmentMissing | None:
    """None where there is one; else what is missing, and the remedy."""
    cause = missing_gpu()
    if not cause and not serves(describe_gpu().capability):
        cause = f"TensorRT for RTX does not serve {describe_gpu().name}"
    return EnvironmentMissing(cause, "copy the run folder to a machine with an NVIDIA RTX GPU") if cause else None


def serves(capability: tuple[int, int]) -> bool:
    """Whether our plans, built for compute capability 8.0 and newer, run on it
    (https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html)."""
    return capability in AMPERE_AND_ADA or capability[0] == BLACKWELL
