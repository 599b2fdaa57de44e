"""Everything this package raises on purpose, and the exit code that the command line gives it.

    PtqExportError
    ├── GateFailed           exit 1   a proof or a bound did not hold
    ├── InputError           exit 2   a file, an option or a run folder cannot be used
    └── EnvironmentMissing   exit 3   a package, a device or a compiler is absent

An interruption (Ctrl-C) exits with 130.
"""

__all__ = ["EnvironmentMissing", "GateFailed", "InputError", "PtqExportError"]


class PtqExportError(Exception):
    """A failure with a cause and, where there is one, the remedy; both are shown to the user."""

    exit_code = 1

    def __init__(self, cause: str, remedy: str = "") -> None:
        super().__init__(f"{cause}\n{remedy}" if remedy else cause)
        self.cause = cause
        self.remedy = remedy


class GateFailed(PtqExportError):
    """A proof that always runs (codes, int8 layers, parity) found a difference past its bound."""

    exit_code = 1


class InputError(PtqExportError):
    """What the user gave cannot be used: nothing was written."""

    exit_code = 2


class EnvironmentMissing(PtqExportError):
    """This machine lacks what the target needs; what was finished before stays on disk."""

    exit_code = 3
