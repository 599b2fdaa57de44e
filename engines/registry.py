"""The registry of engine kinds: one entry each; what a kind needs, takes and delivers stands in its own package."""

from pathlib import Path

from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.engines.jetson.runtime import JETSON
from ptq_export.engines.ort.gpu.runtime import ORT_CUDA, ORT_TRT
from ptq_export.engines.ort.runtime import ORT
from ptq_export.engines.ov.runtime import OPENVINO, OPENVINO_BF16
from ptq_export.engines.runtime import Runtime
from ptq_export.engines.trt.runtime import TRT, TRT_RTX
from ptq_export.errors import InputError
from ptq_export.lookup import lookup
from ptq_export.options import Options
from ptq_export.targets import TARGETS, Target

__all__ = ["PROVER", "RUNTIMES", "availability", "build_engine", "check_target", "find_runtime", "load_files"]

RUNTIMES = {it.name: it for it in (ORT, OPENVINO, OPENVINO_BF16, TRT, TRT_RTX, ORT_TRT, ORT_CUDA, JETSON)}
PROVER = ORT.name
"""What executes an int8 graph whose own engine does not run here."""


def find_runtime(kind: str) -> Runtime:
    """The runtime of that name.

    Raises:
        InputError: there is none; the message lists the known ones and offers the nearest.
    """
    return lookup("engine kind", kind, RUNTIMES)


def availability(kind: str, options: EngineOptions | None = None) -> tuple[bool, str]:
    """Whether engines of this kind, with these options, can be built and run here, and what is missing: where they
    can, to be faster."""
    runtime = find_runtime(kind)
    missing = runtime.missing(options)
    return (True, runtime.advice()) if missing is None else (False, missing.in_one_line)


def build_engine(
    kind: str, source: Path, cache: Path, options: EngineOptions | None = None, sha256: str | None = None
) -> Engine:
    """The engine of `source`, as `Runtime.build` makes it.

    Raises:
        EnvironmentMissing: this machine lacks what the kind needs.
        InputError: no such kind, or `source` cannot be used.
    """
    return find_runtime(kind).build(source, cache, options, sha256)


def load_files(kind: str, source: str, batch: str = "") -> Engine:
    """The engine of an ONNX file and the cache beside it, from plain strings: for a process that knows nothing else."""
    options = EngineOptions(batch=int(batch) if batch else None)
    return build_engine(kind, Path(source), Path(source).parent / "engine", options)


def check_target(target: Target, options: Options) -> Runtime:
    """The target's runtime, which can do what `options` ask of it, as far as that is known before any work.

    Raises:
        InputError: a flag means nothing for it (the targets that take it are named), or an option has no such value.
        EnvironmentMissing: a check that was asked for cannot be made here.
    """
    runtime = find_runtime(target.engine)
    for flag in (flag for flag in options.runtime_flags if flag not in runtime.takes):
        serving = [it.name for it in TARGETS.values() if it.scheme and flag in find_runtime(it.engine).takes]
        remedy = f"leave it out, or take a target that it serves: {', '.join(serving)}"
        raise InputError(f"{flag} means nothing for {target.name}", remedy)
    runtime.options_from(options.for_engines)
    runtime.require(options.check)
    return runtime
