"""From a run folder to the engine that it holds."""

from pathlib import Path
from typing import Any

from ptq_export.artifacts import read_json
from ptq_export.engines.available import build_engine
from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.errors import InputError
from ptq_export.options import Options
from ptq_export.targets import find_target

__all__ = ["load_engine"]


def load_engine(run: Path | str, which: str | None = None, options: EngineOptions | None = None) -> Engine:
    """The engine of a finished run, or its baseline, e.g. `which="ort-fp32"`; its ONNX is the one in the manifest.

    Without `options` an engine on a GPU is the one that the run was made for, one on the CPU serves any batch.

    Raises:
        EnvironmentMissing: this machine cannot run the engine.
        InputError: `run` is not a finished run, has no such engine, or its ONNX is damaged.
    """
    folder = Path(run)
    if not (folder / "manifest.json").is_file():
        raise InputError(f"{folder} is not a finished run: it has no manifest.json", "finish it with the same command")
    manifest = read_json(folder / "manifest.json")
    target = find_target(which or str(manifest.get("target")))
    name = target.onnx
    if options is None and target.device == "gpu":
        options = _as_built(manifest)
    return build_engine(target.engine, folder / name, folder / "engine", options, _sha256(manifest, name, folder))


def _as_built(manifest: dict[str, Any]) -> EngineOptions:
    """The options of the plan that the run holds: with others it would be built again."""
    asked = manifest.get("options", {})
    given = Options(batch=asked.get("batch"), compute_capability=asked.get("compute_capability"))
    effort = {"builder_level": asked.get("builder_level"), "workspace_mib": asked.get("workspace")}
    return EngineOptions(
        batch=given.fixed_batch,
        batches=given.batch_range,
        compute_capabilities=given.compute_capabilities,
        **effort,
    )


def _sha256(manifest: dict[str, Any], name: str, folder: Path) -> str:
    artefacts = manifest.get("artefacts")
    entry = artefacts.get(name) if isinstance(artefacts, dict) else None
    if not isinstance(entry, dict) or not isinstance(entry.get("sha256"), str):
        raise InputError(f"{folder} has no {name} in its manifest", "make the run again, in a new folder")
    sha256: str = entry["sha256"]
    return sha256
