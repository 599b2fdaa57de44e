"""A folder that is whole or absent: made beside its place, and moved there by one rename."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptq_export.errors import InputError
from ptq_export.packaging.sums import SUMS, check_sums

__all__ = ["whole_folder"]

_REMEDY = "choose another folder with -o, or remove it first"


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder, which becomes `target` when the block ends without an error.

    What stands at `target` is never changed: an empty folder gives way, the same package stays as it is (so the same
    command may be given twice), anything else is refused.

    Raises:
        InputError: it is refused, or the disk is full; nothing was written.
    """
    _refuse_foreign(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}."))
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}", "choose another folder with -o") from error
    try:
        yield made
        made.chmod(0o755)
        if not _is_same(target, made):
            made.rename(target)
    except OSError as error:
        raise InputError(f"cannot write {target}: {error.strerror}", "free some disk space, or see above") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _refuse_foreign(target: Path) -> None:
    try:
        if not target.is_symlink() and not os.path.lexists(target):
            return
        empty_or_ours = target.is_dir() and (not any(target.iterdir()) or (target / SUMS).is_file())
    except OSError as error:
        raise InputError(f"{target} cannot be read: {error.strerror}", "choose another folder with -o") from error
    if not empty_or_ours:
        raise InputError(f"{target} is not empty and holds no package", _REMEDY)


def _is_same(target: Path, made: Path) -> bool:
    """Whether `target` holds this very package already, whole."""
    if not (target / SUMS).is_file():
        return False
    if (target / SUMS).read_bytes() != (made / SUMS).read_bytes():
        raise InputError(f"{target} holds another package", _REMEDY)
    check_sums(target)
    return True
