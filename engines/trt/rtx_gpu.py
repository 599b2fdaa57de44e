"""Which GPUs TensorRT for RTX serves: GeForce and workstation GPUs, no data centre's; and which a plan serves.

By default a plan is for compute capability 8.0 and newer; one for Turing (7.5) has to be asked for, and one that was
asked for serves what it names alone
(https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/cpu-engines.html).
"""

from collections.abc import Sequence

from ptq_export.engines.cuda.driver import describe_gpu, missing_gpu
from ptq_export.errors import EnvironmentMissing

__all__ = ["is_rtx", "missing_rtx_gpu", "other_gpu", "serves"]

TURING = (7, 5)
AMPERE_AND_ADA = frozenset({(8, 0), (8, 6), (8, 9)})
BLACKWELL = 12


def missing_rtx_gpu() -> EnvironmentMissing | None:
    """None where there is one; else what is missing, and the remedy."""
    cause = missing_gpu()
    if not cause and not is_rtx(describe_gpu().capability):
        cause = f"TensorRT for RTX does not serve {describe_gpu().name}"
    return EnvironmentMissing(cause, "copy the run folder to a machine with an NVIDIA RTX GPU") if cause else None


def other_gpu(capabilities: Sequence[str]) -> EnvironmentMissing | None:
    """None where a plan for these compute capabilities is for the GPU here; else what is wrong, and the remedy."""
    gpu = describe_gpu()
    if serves(gpu.capability, capabilities):
        return None
    major, minor = gpu.capability
    wanted = f"--compute-capability {major}.{minor}" if gpu.capability == TURING else "no --compute-capability"
    return EnvironmentMissing(
        f"the plan is for compute capability {', '.join(capabilities) or '8.0 and newer'}, {gpu.name} has "
        f"{major}.{minor}",
        f"make a run with {wanted}",
    )


def is_rtx(capability: tuple[int, int]) -> bool:
    """Whether TensorRT for RTX can build for it
    (https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/getting-started/support-matrix.html)."""
    return capability == TURING or serves(capability, ())


def serves(capability: tuple[int, int], built_for: Sequence[str]) -> bool:
    """Whether a plan that was built for these, or by default for 8.0 and newer, runs on a GPU of that capability."""
    if built_for:
        return f"{capability[0]}.{capability[1]}" in built_for
    return capability in AMPERE_AND_ADA or capability[0] == BLACKWELL
