"""The format `folder`: what a service needs to load the engine and to sample with it, and no more."""

from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

from ptq_export.command_options import Packaging
from ptq_export.errors import InputError
from ptq_export.packaging.parts import Parts
from ptq_export.pipeline.commands.reopened import examples_known
from ptq_export.text_to_image import DECODER

__all__ = ["FILES", "fill", "same_examples", "write_folder"]

MOST_NUMBERS = 1024

FILES = Path(__file__).parent / "files"
PAGE = {"README.md": "folder.md"}
CONTAINER = {"Dockerfile": "Dockerfile", ".dockerignore": "dockerignore"}


def write_folder(parts: Parts, folder: Path, packaging: Packaging) -> None:
    """Write the graph, what lies around it, its manifest, a page on how to load it, and for an engine on the CPU a
    Dockerfile.

    Raises:
        InputError: the engine is delivered in another form, or an option is for another format.
    """
    if (packaging.engine, packaging.max_batch) != (Packaging.engine, Packaging.max_batch):
        raise InputError("--engine and --max-batch mean nothing for --format folder", "leave them out")
    if parts.target.engine == "jetson":
        raise InputError(
            "a run for a Jetson is delivered as its folder jetson/", f"copy {parts.run / 'jetson'} to the device"
        )
    parts.copy((*parts.names, *parts.around), folder)
    parts.write_manifest(folder, format=packaging.format, **same_examples(parts))
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
        "extras": "serve" if parts.text is None else "serve,text",
        "around": _told_around(parts),
    }
    for name, source in (PAGE | (CONTAINER if parts.runtime.device == "cpu" else {})).items():
        (folder / name).write_text(fill(FILES / source, values), encoding="utf-8")


def same_examples(parts: Parts) -> dict[str, Any]:
    """Of conditions that stand beside a prompt and were the same for every one (SDXL's sizes): that value, by name."""
    if parts.text is None:
        return {}
    beside = [each for each in parts.signature.conditions if each.name not in parts.text.conditions]
    found = examples_known(parts.run, beside)
    same = {name: rows[0] for name, rows in found.items() if bool((rows == rows[0]).all())}
    told = {name: value.tolist() for name, value in same.items() if value.numel() <= MOST_NUMBERS}
    return {"examples": told} if told else {}


def _told_around(parts: Parts) -> str:
    """The page's words on prompts and latents."""
    return "".join(
        fill(FILES / source, {"extras": "serve,text", "version": version("ptq-export")}) + "\n"
        for source, holds in (("prompts.md", parts.text is not None), ("latents.md", DECODER in parts.around))
        if holds
    )


def fill(file: Path, values: dict[str, str]) -> str:
    """A text of this package with `$name` filled in; what `values` does not name stays as it is."""
    return Template(file.read_text(encoding="utf-8")).safe_substitute(values)
