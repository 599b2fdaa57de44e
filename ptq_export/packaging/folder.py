"""The format `folder`: what a service needs to load the engine and to sample with it, and no more."""

from importlib.metadata import version
from pathlib import Path
from string import Template

from ptq_export.command_options import Packaging
from ptq_export.errors import InputError
from ptq_export.packaging.parts import Parts

__all__ = ["FILES", "fill", "write_folder"]

FILES = Path(__file__).parent / "files"
PAGE = {"README.md": "folder.md"}
CONTAINER = {"Dockerfile": "Dockerfile", ".dockerignore": "dockerignore"}


def write_folder(parts: Parts, folder: Path, packaging: Packaging) -> None:
    """Write the graph, its manifest, a page on how to load it, and for an engine on the CPU a Dockerfile.

    Raises:
        InputError: the engine is delivered in another form, or an option is for another format.
    """
    if (packaging.engine, packaging.max_batch) != (Packaging.engine, Packaging.max_batch):
        raise InputError("--engine and --max-batch mean nothing for --format folder", "leave them out")
    if parts.target.engine == "jetson":
        raise InputError(
            "a run for a Jetson is delivered as its folder jetson/", f"copy {parts.run / 'jetson'} to the device"
        )
    parts.copy(parts.names, folder)
    parts.write_manifest(folder, format=packaging.format)
    inputs = "\n".join(
        f"| `{it.name}` | {it.dtype} | {', '.join(map(str, ('N', *it.shape)))} |" for it in parts.signature.inputs
    )
    values = {
        "target": parts.target.name,
        "summary": parts.target.summary,
        "onnx": parts.target.onnx,
        "version": version("ptq-export"),
        "install": parts.runtime.install,
        "inputs": inputs,
        "calls": "".join(f", {it.name}=..." for it in parts.signature.conditions),
        "shape": ", ".join(map(str, parts.signature.sample_shape)),
    }
    for name, source in (PAGE | (CONTAINER if parts.runtime.device == "cpu" else {})).items():
        (folder / name).write_text(fill(FILES / source, values), encoding="utf-8")


def fill(file: Path, values: dict[str, str]) -> str:
    """A text of this package with `$name` filled in; what `values` does not name stays as it is."""
    return Template(file.read_text(encoding="utf-8")).safe_substitute(values)
