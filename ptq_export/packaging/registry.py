"""The formats of a package, by name: one entry each; what a format writes stands in its own module."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ptq_export.command_options import Packaging
from ptq_export.errors import InputError
from ptq_export.lookup import lookup
from ptq_export.packaging.folder import write_folder
from ptq_export.packaging.output import whole_folder
from ptq_export.packaging.parts import Parts, read_parts
from ptq_export.packaging.sums import SUMS, check_sums, write_sums
from ptq_export.packaging.triton.repository import write_repository

__all__ = ["FORMATS", "Format", "package"]


@dataclass(frozen=True)
class Format:
    """What `write` puts into an empty folder: the engine of a run, as `summary` says."""

    summary: str
    write: Callable[[Parts, Path, Packaging], None]


FORMATS = {
    "folder": Format("what load_engine, `ptq-export serve` and a container need", write_folder),
    "triton": Format("a model repository of Triton Inference Server", write_repository),
}


def package(run: Path, packaging: Packaging) -> dict[str, Any]:
    """Write the engine of a finished run as a package, whole or not at all; what was written.

    Raises:
        InputError: the run is not finished or damaged, the format cannot hold its engine, or the folder is not free.
        GateFailed: the run's own proofs did not hold.
    """
    form, out = lookup("format", packaging.format, FORMATS), packaging.out
    parts = read_parts(run)
    if out.resolve() == run.resolve() or run.resolve() in out.resolve().parents:
        raise InputError(f"{out} lies in the run itself", "choose another folder with -o")
    with whole_folder(out) as folder:
        form.write(parts, folder, packaging)
        write_sums(folder)
    files = check_sums(out)
    size_bytes = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    check = f"cd {out} && sha256sum -c {SUMS}"
    return {"package": str(out), "format": packaging.format, "files": files, "size_bytes": size_bytes, "check": check}
