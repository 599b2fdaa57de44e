"""From a run folder to the engine that it holds."""

from pathlib import Path

from ptq_export.artifacts import inside
from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.engines.registry import find_runtime
from ptq_export.errors import InputError
from ptq_export.schemas import MANIFEST, read_options, read_part
from ptq_export.targets import find_target

__all__ = ["load_engine"]


def load_engine(run: Path | str, which: str | None = None, options: EngineOptions | None = None) -> Engine:
    """The engine of a finished run, or its baseline, e.g. `which="ort-fp32"`; its ONNX is the one in the manifest.

    Without `options` an engine on a GPU is the one that the run was made for, one on the CPU serves any batch.

    What is served is built from that ONNX file, which `verify` proves. What was kept of a build is loaded only if this
    account built it on this machine (`ptq_export.provenance`): an engine file that came with the folder, or that was
    changed, is built again, unless `options.trusted` vouches for the folder. Nothing that the folder names is imported.

    Raises:
        EnvironmentMissing: this machine cannot run the engine.
        InputError: `run` is not a finished run, has no such engine, or its ONNX is damaged.
    """
    folder = Path(run)
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} is not a finished run: it has no {MANIFEST}", "finish it with the same command")
    manifest = read_part(folder, MANIFEST)
    target = find_target(which or manifest["target"])
    source, cache = inside(folder, target.onnx), inside(folder, "engine")
    if target.onnx not in manifest["artefacts"]:
        raise InputError(f"{folder} has no {target.onnx} in its manifest", "make the run again, in a new folder")
    runtime = find_runtime(target.engine)
    if options is None and runtime.device == "gpu":  # with others the plan that the run holds would be built again
        asked = read_options(manifest, folder / MANIFEST)
        options = runtime.options_from(asked.for_engines)
    return runtime.build(source, cache, options, manifest["artefacts"][target.onnx]["sha256"])
