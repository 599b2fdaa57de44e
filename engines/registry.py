"""The registry of engine kinds: which can run here, what is missing for the others, and how each is built."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.engines.cuda.driver import missing_gpu
from ptq_export.errors import EnvironmentMissing
from ptq_export.lookup import lookup

__all__ = [
    "KINDS",
    "EngineKind",
    "availability",
    "build_engine",
    "distributions",
    "engine_class",
    "load_files",
    "require_checker",
    "runtime_version",
]


@dataclass(frozen=True)
class EngineKind:
    """A runtime: the modules it needs (the first is the runtime itself), what pip is asked for, where its `Engine` is
    (None: on the device, in a bundle), which GPU it wants (none: it runs on the CPU), and functions, where there are
    any, that say what else is missing, what is for an engine of given `EngineOptions`, what would make it faster, and
    on what its speed depends besides the runtime's version. `distributions` are those that the modules may come in.
    """

    packages: tuple[str, ...]
    install: str
    engine: tuple[str, str] | None
    gpu: str = ""
    check: tuple[str, str] | None = None
    check_options: tuple[str, str] | None = None
    advice: tuple[str, str] | None = None
    parts: tuple[str, str] | None = None
    distributions: tuple[str, ...] = ()


CUDA = "cuda.bindings.runtime"
CUDA_FROM = ("cuda-bindings", "cuda-python")
ORT_FROM = ("onnxruntime", "onnxruntime-gpu")
TRT_FROM = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")
KINDS = {
    "ort": EngineKind(
        ("onnxruntime",),
        "onnxruntime",
        ("ptq_export.engines.ort.engine", "OrtEngine"),
        advice=("ptq_export.engines.ort.operators", "missing_operators"),
        parts=("ptq_export.engines.ort.operators", "library_version"),
        distributions=ORT_FROM,
    ),
    "openvino": EngineKind(
        ("openvino",),
        "'ptq-export[openvino]'",
        ("ptq_export.engines.ov.engine", "OpenVinoEngine"),
        distributions=("openvino",),
    ),
    "openvino-bf16": EngineKind(
        ("openvino",),
        "'ptq-export[openvino]'",
        ("ptq_export.engines.ov.engine", "OpenVinoBf16Engine"),
        check=("ptq_export.engines.ov.bf16", "missing_bf16"),
        distributions=("openvino",),
    ),
    "trt": EngineKind(
        ("tensorrt", CUDA),
        "tensorrt cuda-python",
        ("ptq_export.engines.trt.engine", "TrtEngine"),
        "an NVIDIA GPU",
        distributions=(*TRT_FROM, *CUDA_FROM),
    ),
    "trt-rtx": EngineKind(
        ("tensorrt_rtx", CUDA),
        "'ptq-export[trt-rtx]'",
        ("ptq_export.engines.trt.engine", "TrtRtxEngine"),
        "an NVIDIA RTX GPU",
        ("ptq_export.engines.trt.rtx_gpu", "missing_rtx_gpu"),
        ("ptq_export.engines.trt.rtx_gpu", "other_gpu"),
        distributions=("tensorrt-rtx", "tensorrt-rtx-cu12", "tensorrt-rtx-cu13", *CUDA_FROM),
    ),
    "ort-trt": EngineKind(
        ("onnxruntime", CUDA),
        "onnxruntime-gpu cuda-python",
        ("ptq_export.engines.ort.gpu.engine", "OrtTrtEngine"),
        "an NVIDIA GPU",
        ("ptq_export.engines.ort.gpu.providers", "missing_tensorrt"),
        distributions=(*ORT_FROM, *TRT_FROM, *CUDA_FROM),
    ),
    "ort-cuda": EngineKind(
        ("onnxruntime", CUDA),
        "onnxruntime-gpu cuda-python",
        ("ptq_export.engines.ort.gpu.engine", "OrtCudaEngine"),
        "an NVIDIA GPU",
        ("ptq_export.engines.ort.gpu.providers", "missing_cuda"),
        distributions=(*ORT_FROM, *CUDA_FROM),
    ),
    "jetson": EngineKind((), "", None),
}


def availability(kind: str, options: EngineOptions | None = None) -> tuple[bool, str]:
    """Whether engines of this kind, with these options, can be built and run here, and what is missing: where they
    can, to be faster."""
    entry = lookup("engine kind", kind, KINDS)
    missing = _missing(entry)
    if missing is None and options is not None and entry.check_options is not None:
        missing = _call(entry.check_options, options)
    if missing is None:
        return True, "" if entry.advice is None else _call(entry.advice)
    return False, f"{missing.cause}: {missing.remedy}"


def require_checker() -> None:
    """Make sure that `--check rtx` can be done.

    Raises:
        EnvironmentMissing: TensorRT for RTX is not installed.
    """
    package = KINDS["trt-rtx"].packages[0]
    if not _is_installed(package):
        raise EnvironmentMissing(
            f"--check rtx: the package {package} is not installed", "pip install tensorrt-rtx, or leave --check out"
        )


def engine_class(kind: str) -> type[Engine]:
    """The class behind a kind.

    Raises:
        EnvironmentMissing: this machine lacks what the kind needs.
        InputError: no such kind.
    """
    entry = lookup("engine kind", kind, KINDS)
    missing = _missing(entry)
    if missing is not None or entry.engine is None:
        raise missing or EnvironmentMissing(f"{kind} is not available")
    module, name = entry.engine
    found: type[Engine] = getattr(import_module(module), name)
    return found


def build_engine(
    kind: str, source: Path, cache: Path, options: EngineOptions | None = None, sha256: str | None = None
) -> Engine:
    """The engine of `source` (ONNX, of that sha256 where given); what can be kept of the build is kept in `cache`.

    Raises:
        EnvironmentMissing: this machine lacks what the kind needs.
        InputError: no such kind, or `source` cannot be used.
    """
    build: Callable[..., Engine] = engine_class(kind)
    return build(source, cache, options, sha256)


def runtime_version(kind: str) -> str:
    """The version of the runtime behind a kind that is available here, as it tells it itself, and of other parts."""
    entry = lookup("engine kind", kind, KINDS)
    version = str(import_module(entry.packages[0]).__version__)
    return version if entry.parts is None else f"{version}, {_call(entry.parts)}"


def distributions(kind: str) -> tuple[str, ...]:
    """The distributions on whose versions engines of a kind depend, as pip names them; not all of them need be here."""
    return lookup("engine kind", kind, KINDS).distributions


def load_files(kind: str, source: str, batch: str = "") -> Engine:
    """The engine of an ONNX file and the cache beside it, from plain strings: for a process that knows nothing else."""
    options = EngineOptions(batch=int(batch) if batch else None)
    return build_engine(kind, Path(source), Path(source).parent / "engine", options)


def _missing(kind: EngineKind) -> EnvironmentMissing | None:
    """What is missing first; the GPU is looked for only where the packages are."""
    if kind.engine is None:
        remedy = "copy the run's folder jetson to the device and run there: python3 build.py"
        return EnvironmentMissing("its engine is built and runs on the device itself", remedy)
    for package in kind.packages:
        if not _is_installed(package):
            needs = f" (it needs {kind.gpu})" if kind.gpu else ""
            return EnvironmentMissing(f"the package {package} is not installed", f"pip install {kind.install}{needs}")
    if kind.check is not None:
        found: EnvironmentMissing | None = _call(kind.check)
        return found
    if kind.gpu and (cause := missing_gpu()):
        return EnvironmentMissing(cause, f"{kind.packages[0]} engines run on {kind.gpu}: copy the run folder to one")
    return None


def _call(place: tuple[str, str], *arguments: EngineOptions) -> Any:
    module, function = place
    return getattr(import_module(module), function)(*arguments)


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of the package that it is part of
        return False
