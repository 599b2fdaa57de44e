"""The registry of targets: each one names the quantisation scheme, the engine kind and what it is compared with."""

from collections.abc import Collection
from dataclasses import dataclass, replace

from ptq_export.errors import InputError
from ptq_export.lookup import lookup
from ptq_export.nn.scheme import OPENVINO, ORT_CPU, TENSORRT, LinearGranularity, Scheme, placed
from ptq_export.options import Options

__all__ = ["FP16", "FP32", "FP32_UNFOLDED", "TARGETS", "Target", "find_target"]


FP16 = "denoiser.fp16.onnx"
FP32 = "denoiser.fp32.onnx"
FP32_UNFOLDED = "denoiser.fp32-unfolded.onnx"


@dataclass(frozen=True)
class Target:
    """A place to run.

    Attributes:
        engine: A kind that `ptq_export.engines` knows, which says what it runs on, needs and takes.
        scheme: None for the float baselines.
        onnx: The file in the run folder that the engine is built from; float graphs serve several engines.
        baselines: Targets that it is measured against in the same rounds; the first is the verdict's.
    """

    name: str
    engine: str
    scheme: Scheme | None
    onnx: str
    baselines: tuple[str, ...]
    summary: str

    def quantised(self) -> Scheme:
        """The scheme of a target that has one.

        Raises:
            InputError: this is a float baseline.
        """
        if self.scheme is None:
            quantised = ", ".join(name for name, target in TARGETS.items() if target.scheme is not None)
            raise InputError(
                f"{self.name} is a baseline: there is nothing to quantise", f"--target is one of {quantised}"
            )
        return self.scheme

    def scheme_for(self, options: Options, placements: Collection[str]) -> Scheme:
        """The scheme as `options` ask for it, with these placements.

        Raises:
            InputError: this is a float baseline.
        """
        inputs: LinearGranularity = "token" if options.linears == "token" else "tensor"
        return replace(placed(self.quantised(), placements), linear_input=inputs)


def _int8(name: str, engine: str, scheme: Scheme, baselines: tuple[str, ...], summary: str) -> Target:
    return Target(name, engine, scheme, f"denoiser.{name}.onnx", baselines, summary)


_ENTRIES = (
    _int8(
        "ort-int8",
        "ort",
        ORT_CPU,
        ("ort-fp32", "ort-fp32-unfolded"),
        "ONNX Runtime CPU, uint8 activations, int8 weights",
    ),
    Target("ort-fp32", "ort", None, FP32, (), "ONNX Runtime CPU, float32 (baseline)"),
    Target("ort-fp32-unfolded", "ort", None, FP32_UNFOLDED, (), "the same, its time embedding computed (baseline)"),
    _int8(
        "openvino-int8",
        "openvino",
        OPENVINO,
        ("openvino-fp32", "ort-fp32", "openvino-bf16"),
        "OpenVINO on x86 CPUs, uint8 activations, int8 weights",
    ),
    Target("openvino-fp32", "openvino", None, FP32, (), "OpenVINO on x86 CPUs, float32 (baseline)"),
    Target("openvino-bf16", "openvino-bf16", None, FP32, (), "OpenVINO on x86 CPUs, bfloat16 (baseline)"),
    _int8(
        "trt-int8",
        "trt",
        TENSORRT,
        ("trt-fp16", "trt-fp32"),
        "TensorRT on NVIDIA GPUs, int8 with float16 around it",
    ),
    Target("trt-fp16", "trt", None, FP16, (), "TensorRT, float16 (baseline)"),
    Target("trt-fp32", "trt", None, FP32, (), "TensorRT, float32 with its TF32 products (baseline)"),
    _int8(
        "trt-rtx-int8",
        "trt-rtx",
        TENSORRT,
        ("trt-rtx-fp16",),
        "TensorRT for RTX, built ahead of time without a GPU",
    ),
    Target("trt-rtx-fp16", "trt-rtx", None, FP16, (), "TensorRT for RTX, float16 (baseline)"),
    _int8(
        "ort-trt-int8",
        "ort-trt",
        TENSORRT,
        ("ort-trt-fp16", "ort-cuda-fp16"),
        "ONNX Runtime's TensorRT provider, int8 with float16 around it",
    ),
    Target("ort-trt-fp16", "ort-trt", None, FP16, (), "ONNX Runtime's TensorRT provider, float16 (baseline)"),
    Target("ort-cuda-fp16", "ort-cuda", None, FP16, (), "ONNX Runtime's CUDA provider, float16 (baseline)"),
    _int8("jetson-int8", "jetson", TENSORRT, (), "a bundle for a Jetson, which builds and times the engine"),
)
REFUSED = {
    "ort-cuda-int8": (
        "ONNX Runtime's CUDA provider has no int8 convolution: it would run float kernels with Q/DQ around them",
        "on an NVIDIA GPU take trt-int8, or ort-trt-int8, the same graph through ONNX Runtime's TensorRT provider",
    ),
}
TARGETS: dict[str, Target] = {}
for _entry in _ENTRIES:
    if _entry.name in TARGETS:
        raise ValueError(f"target {_entry.name} is registered twice")
    TARGETS[_entry.name] = _entry


def find_target(name: str) -> Target:
    """The target called `name`.

    Raises:
        InputError: no such target (the message lists the known ones and offers the nearest), or one that cannot be.
    """
    if name in REFUSED:
        reason, instead = REFUSED[name]
        raise InputError(f"there is no {name}: {reason}", instead)
    return lookup("target", name, TARGETS)
