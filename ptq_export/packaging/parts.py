"""What a package takes from a run: the manifest, and the files of the engine's graph, each checked by its digest."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptq_export.artifacts import data_beside, describe_file, inside, prompt_beside, sha256_file, write_json
from ptq_export.engines.base import Signature
from ptq_export.engines.registry import find_runtime
from ptq_export.engines.runtime import Runtime
from ptq_export.engines.signature import read_signature
from ptq_export.errors import GateFailed, InputError
from ptq_export.graph.prompt_file import prompt_inputs, require_prompt
from ptq_export.interface import Input, inputs_from_json
from ptq_export.pipeline.commands.reopened import finished_manifest
from ptq_export.schemas import MANIFEST
from ptq_export.targets import Target, find_target
from ptq_export.text_to_image import DECODER, TEXT_ENCODER, TextParts, tokenizer_file

__all__ = ["Parts", "read_parts"]

ENGINE_OPTIONS = ("batch", "builder_level", "compute_capability", "jetpack", "threads", "workspace")
"""Of a run's options, those that say how its engine is built."""


@dataclass(frozen=True)
class Parts:
    """The engine of a finished run, its files whole.

    Attributes:
        names: The graph, and what belongs to it: the data of its weights, its prompt graph and the data of that.
        around: What lies around it: the text encoder and its tokenizers, the decoder of latents.
    """

    run: Path
    manifest: Mapping[str, Any]
    target: Target
    signature: Signature
    names: tuple[str, ...]
    around: tuple[str, ...] = ()

    @property
    def text(self) -> TextParts | None:
        """How it takes prompts; None where it takes none."""
        return TextParts.from_json(self.manifest)

    @property
    def runtime(self) -> Runtime:
        """What runs the engine."""
        return find_runtime(self.target.engine)

    @property
    def prompt_names(self) -> tuple[str, ...]:
        """The prompt graph, if there is one, and its data."""
        prompt = prompt_beside(Path(self.target.onnx))
        return tuple(name for name in self.names if name in (prompt.name, data_beside(prompt).name))

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """The tokenizers of a run that takes prompts."""
        return () if self.text is None else tuple(map(tokenizer_file, range(self.text.tokenizers)))

    def with_data(self, name: str) -> tuple[str, ...]:
        """A graph that lies around the engine and the data of its weights; nothing where there is none."""
        return tuple(each for each in (name, data_beside(Path(name)).name) if each in self.around)

    @property
    def step_names(self) -> tuple[str, ...]:
        """The graph of a step and its data."""
        return tuple(name for name in self.names if name not in self.prompt_names)

    @property
    def prompt_inputs(self) -> tuple[Input, ...]:
        """The conditions that the prompt graph reads; none where there is none.

        Raises:
            InputError: the graph does not say.
        """
        return prompt_inputs(self.run / self.prompt_names[0]) if self.prompt_names else ()

    def copy(self, names: tuple[str, ...], folder: Path) -> None:
        """Copy these files into `folder`, and make sure of what arrived.

        Raises:
            InputError: a file was changed meanwhile.
        """
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            shutil.copyfile(self.run / name, folder / name)
            _require_whole(folder / name, name, self.manifest)

    def write_manifest(self, folder: Path, **package: Any) -> None:
        """Write the manifest, cut to what loading the engine and sampling with it need, and to the files that lie in
        `folder`. `package` says what it is the manifest of; paths of the machine that made the run stay there."""
        found = self.manifest
        options = {name: found["options"][name] for name in ENGINE_OPTIONS if name in found["options"]}
        denoiser = dict(found["denoiser"])
        if Path(denoiser["spec"]).is_absolute():
            denoiser["spec"] = Path(denoiser["spec"]).name
        there = [name for name in (*self.names, *self.around) if (folder / name).is_file()]
        artefacts = {name: describe_file(folder / name) for name in there}
        away = {"command": "", "environment": {}, "timings_s": {}}
        cut = {"options": options, "denoiser": denoiser, "artefacts": artefacts, "package": package}
        write_json(folder / MANIFEST, {**found, **away, **cut})


def read_parts(run: Path) -> Parts:
    """The parts of a finished run, or of a package of one.

    Raises:
        InputError: it is not finished, or one of its files is damaged or gone.
        GateFailed: its proofs did not hold.
    """
    manifest = finished_manifest(run)
    if not manifest["verdict"]["ok"]:
        told = "; ".join(manifest["verdict"]["failures"])
        raise GateFailed(f"the proofs of {run} did not hold: {told}", "a service is given an engine that passed")
    target = find_target(manifest["target"])
    graph = Path(target.onnx)
    prompt = prompt_beside(graph)
    belonging = [graph, data_beside(graph), prompt, data_beside(prompt)]
    names = tuple(path.name for path in belonging if path.name in manifest["artefacts"])
    if target.onnx not in names:
        raise InputError(f"{run} has no {target.onnx} in its manifest", "make the run again, in a new folder")
    around = _around(manifest, run)
    for name in (*names, *around):
        _require_whole(inside(run, name), name, manifest)
    signature = read_signature(run / target.onnx)
    if signature.prompt is not None:
        require_prompt(run / target.onnx, signature.prompt)
    if inputs_from_json(manifest["denoiser"]["inputs"], str(run / MANIFEST)) != signature.inputs:
        raise InputError(f"{run / MANIFEST} tells other inputs than {target.onnx} has", "copy the run folder again")
    return Parts(run, manifest, target, signature, names, around)


def _around(manifest: Mapping[str, Any], run: Path) -> tuple[str, ...]:
    text = TextParts.from_json(manifest)
    needed = [] if text is None else [TEXT_ENCODER, *(tokenizer_file(index) for index in range(text.tokenizers))]
    if absent := [name for name in needed if name not in manifest["artefacts"]]:
        raise InputError(f"{run} has no {absent[0]} in its manifest", "make the run again, in a new folder")
    graphs = [*needed, DECODER]
    known = [name for graph in graphs for name in (graph, data_beside(Path(graph)).name)]
    return tuple(name for name in known if name in manifest["artefacts"])


def _require_whole(path: Path, name: str, manifest: Mapping[str, Any]) -> None:
    found, stated = sha256_file(path) if path.is_file() else "absent", manifest["artefacts"][name]["sha256"]
    if found != stated:
        told = f"{name} is damaged: its sha256 is {found}, the manifest says {stated}"
        raise InputError(told, "copy the file again, or make the run again in a new folder")
