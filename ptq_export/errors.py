"""Everything this package raises on purpose, and the exit code that the command line gives it.

    PtqExportError
    ├── GateFailed           exit 1   a proof or a bound did not hold
    ├── InputError           exit 2   a file, an option or a run folder cannot be used
    ├── EnvironmentMissing   exit 3   a package, a device or a compiler is absent
    └── Fault                exit 70  nobody thought of this: a fault of this package

An interruption exits with 128 and the signal's number: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP; and 141
(SIGPIPE) where nobody reads the output any more.
"""

import errno
import traceback
from pathlib import Path

__all__ = ["EnvironmentMissing", "Fault", "GateFailed", "InputError", "PtqExportError", "explained"]

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PtqExportError(Exception):
    """A failure with a cause and, where there is one, the remedy; both are shown to the user."""

    exit_code = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(f"{cause}\n{remedy}" if remedy else cause)
        self.cause = cause
        self.remedy = remedy

    @property
    def in_one_line(self) -> str:
        """Cause and remedy, for a place in another message."""
        return f"{self.cause}: {self.remedy}" if self.remedy else self.cause


class GateFailed(PtqExportError):
    """A proof that always runs (codes, int8 layers, parity) found a difference past its bound."""

    exit_code = 1


class InputError(PtqExportError):
    """What the user gave cannot be used: nothing was written."""

    exit_code = 2


class EnvironmentMissing(PtqExportError):
    """This machine lacks what the target needs; what was finished before stays on disk."""

    exit_code = 3


class Fault(PtqExportError):
    """An error that is raised nowhere on purpose."""

    exit_code = 70


def explained(error: Exception) -> PtqExportError:
    """`error` with a cause and a remedy: what the system refused, a package that does not load, or a fault of ours."""
    if isinstance(error, PtqExportError):
        return error
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or type(error).__name__ == "OutOfMemoryError":
        return InputError(
            f"the memory does not suffice: {error}", "ask for fewer or smaller samples, or a smaller batch"
        )
    if isinstance(error, FileNotFoundError) and "temporary directory" in str(error):  # `tempfile`, of every library
        return EnvironmentMissing(str(error.strerror), "set TMPDIR to a folder that can be written")
    if isinstance(error, OSError) and error.strerror:
        what = error.strerror if error.filename is None else f"{error.filename}: {error.strerror}"
        return InputError(what, "free some disk space and run again" if error.errno in NO_ROOM else "")
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if __package__ in Path(frame.filename).parts] or frames
    if own and (package := _imported(own[-1])):
        return EnvironmentMissing(
            f"the package {package} cannot be imported: {type(error).__name__}: {error}",
            "pip check tells which package it lacks, or has in a version that does not fit",
        )
    place = f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""
    return Fault(
        f"{type(error).__name__}: {error}{place}", "this is a fault of ptq-export: please report it with what -vv shows"
    )


def _imported(frame: traceback.FrameSummary) -> str:
    """The foreign package that a line imports, or nothing: what fails in there is not this package's fault."""
    words = (frame.line or "").split()
    package = words[1].split(".")[0].rstrip(",") if words[:1] in (["from"], ["import"]) else ""
    return "" if package == __package__ else package
