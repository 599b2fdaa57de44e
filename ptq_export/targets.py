"""The registry of targets: each one names the quantisation scheme, the engine kind and what it is compared with."""

from dataclasses import dataclass

from ptq_export.errors import InputError
from ptq_export.lookup import lookup
from ptq_export.nn.scheme import ORT_CPU, TENSORRT, Scheme

__all__ = ["TARGETS", "Target", "find_target"]


@dataclass(frozen=True)
class Target:
    """A place to run: `scheme` is None for the float baselines; `engine` is a kind that `ptq_export.engines` knows."""

    name: str
    engine: str
    scheme: Scheme | None
    baseline: str | None
    summary: str

    @property
    def needs_gpu(self) -> bool:
        """Whether its engine runs on a GPU alone; its graph is proved by ONNX Runtime on the CPU, if slowly."""
        return self.engine != "ort"

    def quantised(self) -> Scheme:
        """The scheme of a target that has one.

        Raises:
            InputError: this is a float baseline.
        """
        if self.scheme is None:
            raise InputError(f"{self.name} is a baseline: there is nothing to quantise", "use --target ort-int8")
        return self.scheme


_ENTRIES = (
    Target("ort-int8", "ort", ORT_CPU, "ort-fp32", "ONNX Runtime CPU, uint8 activations, int8 weights"),
    Target("ort-fp32", "ort", None, None, "ONNX Runtime CPU, float32 (baseline)"),
    Target("trt-int8", "trt", TENSORRT, None, "TensorRT on NVIDIA GPUs, int8 with float16 around it"),
    Target("trt-rtx-int8", "trt-rtx", TENSORRT, None, "TensorRT for RTX, built ahead of time without a GPU"),
)
TARGETS: dict[str, Target] = {}
for _entry in _ENTRIES:
    if _entry.name in TARGETS:
        raise ValueError(f"target {_entry.name} is registered twice")
    TARGETS[_entry.name] = _entry


def find_target(name: str) -> Target:
    """The target called `name`.

    Raises:
        InputError: no such target; the message lists the known ones and offers the nearest.
    """
    return lookup("target", name, TARGETS)
