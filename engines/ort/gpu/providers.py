"""What ONNX Runtime's GPU providers want, asked without an engine: the right package, a GPU, and their libraries."""

import ctypes
import os
import sys
from contextlib import redirect_stdout, suppress
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import onnxruntime
from onnx import TensorProto, helper

from ptq_export.engines.cuda.driver import missing_gpu
from ptq_export.engines.ort.session import FATAL_ONLY, Provider, open_session
from ptq_export.errors import EnvironmentMissing, InputError

__all__ = ["CUDA", "TENSORRT", "missing_cuda", "missing_tensorrt", "provider_error", "tensorrt_version"]

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
LIBRARIES = {
    CUDA: "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    TENSORRT: "pip install 'onnxruntime-gpu[cuda,cudnn]' and the TensorRT libraries of the version that it was built "
    "with, e.g. pip install 'tensorrt<11' where it asks for libnvinfer.so.10",
}


def missing_cuda() -> EnvironmentMissing | None:
    """What the CUDA provider lacks here."""
    return provider_error(CUDA)


def missing_tensorrt() -> EnvironmentMissing | None:
    """What the TensorRT provider lacks here."""
    return provider_error(TENSORRT)


@cache
def provider_error(name: str) -> EnvironmentMissing | None:
    """Why ONNX Runtime cannot use the provider called `name` in this process; None where it can.

    A provider that is only listed proves nothing: a session of one node is opened on it.
    """
    if name not in onnxruntime.get_available_providers():
        return EnvironmentMissing(
            f"this onnxruntime has no {name}",
            f"pip uninstall onnxruntime, then {LIBRARIES[name]}",
        )
    if cause := missing_gpu():
        return EnvironmentMissing(cause, f"{name} runs on an NVIDIA GPU: copy the run folder to a machine with one")
    _preload_libraries()
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = FATAL_ONLY
    wanted: Provider = (name, {})
    try:
        open_session(_one_node(), settings, [wanted])
    except (EnvironmentMissing, InputError) as error:
        return EnvironmentMissing(f"{name} does not load: {error.cause}", LIBRARIES[name])
    return None


def tensorrt_version() -> str:
    """The number by which the TensorRT that the provider is linked with calls itself, e.g. `101200` for 10.12.0;
    `unknown` where the provider is not loaded."""
    name = "onnxruntime_providers_tensorrt.dll" if sys.platform == "win32" else "libonnxruntime_providers_tensorrt.so"
    provider = Path(onnxruntime.__file__).parent / "capi" / name
    try:
        # A symbol is looked up in what a library needs, too: other versions may be loaded in this process.
        return str(ctypes.CDLL(str(provider), mode=getattr(os, "RTLD_NOLOAD", 0)).getInferLibVersion())
    except (OSError, AttributeError):
        return "unknown"


def _preload_libraries() -> None:
    """Load the libraries that pip has installed: CUDA's and cuDNN's, and those of the package `tensorrt`."""
    with redirect_stdout(sys.stderr):  # where it prints what it does not find
        onnxruntime.preload_dlls()
    if find_spec("tensorrt") is not None:
        with suppress(ImportError, OSError):
            import_module("tensorrt")


def _one_node() -> bytes:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "probe", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    serialised: bytes = model.SerializeToString()
    return serialised
