"""The check of a package where it arrived: its digests, and that its engine can be loaded there."""

from pathlib import Path
from typing import Any

from ptq_export.engines.load import load_engine
from ptq_export.engines.registry import find_runtime
from ptq_export.packaging.sums import SUMS, check_sums
from ptq_export.schemas import MANIFEST, read_part
from ptq_export.targets import find_target

__all__ = ["check_package", "is_package"]


def is_package(path: Path) -> bool:
    """Whether a folder is a package, and no run: whoever adds digests to a run folder has a run still."""
    if not (path / SUMS).is_file():
        return False
    return not (path / MANIFEST).is_file() or "package" in read_part(path, MANIFEST)


def check_package(folder: Path) -> dict[str, Any]:
    """Hold every file to its digest, and load the engine of a folder that has its own manifest.

    Raises:
        GateFailed: a file is damaged, absent or not named.
        InputError: SHA256SUMS or the manifest cannot be read, or the engine cannot be loaded.
    """
    facts: dict[str, Any] = {"package": str(folder), "files": check_sums(folder), "engine": "not loaded"}
    if (folder / MANIFEST).is_file():
        runtime = find_runtime(find_target(read_part(folder, MANIFEST)["target"]).engine)
        missing = runtime.missing()
        facts["engine"] = "loaded" if missing is None else f"not loaded: {missing.in_one_line}"
        if missing is None:
            load_engine(folder)
    told = "that the engine computes what was calibrated: a package has no network; verify the run of it"
    return facts | {"not_proved": told}
