"""The two values of this folder: what a file holds (`Weights`), and one way to read it as a net (`Format`)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ptq_export.artifacts import digest, sha256_file
from ptq_export.checkpoints.assume import Assumable
from ptq_export.denoiser import Denoiser, Source

__all__ = ["Format", "Weights"]


@dataclass(frozen=True)
class Weights:
    """Named tensors, read without running any code, with whatever their file says about itself.

    `path` is the file that holds the tensors; or the index of the files `parts`, where there are several. `metadata` is
    a safetensors header; `config` and `scheduler` are diffusers' JSON files. All three are empty where the file has
    none. `pipeline` is the folder that has the net's folder, and beside it the other parts of a pipeline.
    """

    spec: str
    path: Path
    tensors: Mapping[str, Tensor]
    ema: bool | None = None
    notes: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    scheduler: Mapping[str, Any] = field(default_factory=dict)
    parts: tuple[Path, ...] = ()
    pipeline: Path | None = None

    def sha256(self) -> str:
        """Hexadecimal sha256 of the file, or of the list of the parts' names and sha256."""
        if not self.parts:
            return sha256_file(self.path)
        return digest([[part.name, sha256_file(part)] for part in sorted(self.parts)])

    def source(self, format_name: str, architecture: Mapping[str, Any], *notes: str) -> Source:
        """The `Source` of a denoiser made of these tensors; `notes` follow those of the file."""
        unknown = () if self.ema is not None else ("not stated whether these are EMA weights",)
        all_notes = (*self.notes, *unknown, *notes)
        return Source(self.spec, format_name, self.sha256(), self.ema, all_notes, dict(architecture))


@dataclass(frozen=True)
class Format:
    """A kind of checkpoint: `matches` looks at keys alone, `load(weights, resolution, assume)` builds the denoiser.

    `load` raises `InputError` when the tensors turn out not to fit the net that their keys promise. `assume` is what
    the user says that the tensors do not tell; it holds keys and values of `assumable` only.
    """

    name: str
    matches: Callable[[Weights], bool]
    load: Callable[[Weights, int | None, Mapping[str, str]], Denoiser]
    assumable: Assumable = field(default_factory=dict)
