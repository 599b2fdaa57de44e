"""The registry of targets: each one names the quantisation scheme, the engine kind and what it is compared with."""

from dataclasses import dataclass

from ptq_export.lookup import lookup
from ptq_export.nn.scheme import ORT_CPU, Scheme

__all__ = ["TARGETS", "Target", "find_target"]


@dataclass(frozen=True)
class Target:
    """A place to run: `scheme` is None for the float baselines; `engine` is a kind that `ptq_export.engines` knows."""

    name: str
    engine: str
    scheme: Scheme | None
    baseline: str | None
    summary: str


_ENTRIES = (
    Target("ort-int8", "ort", ORT_CPU, "ort-fp32", "ONNX Runtime CPU, uint8 activations, int8 weights"),
    Target("ort-fp32", "ort", None, None, "ONNX Runtime CPU, float32 (baseline)"),
    Target("trt-int8", "trt", None, "trt-fp16", "TensorRT on NVIDIA GPUs, int8 with float16 around it (not built yet)"),
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
