"""A copy of our operators' library that takes the loops for one instruction set."""

import shutil
from pathlib import Path

import onnxruntime
import pytest

from ptq_export.engines.ort.operators import ISA

__all__ = ["WINOGRAD_ISAS", "loaded"]

WINOGRAD_ISAS = ("avx512vnni", "avx512", "avxvnni", "avx2", "baseline")


def loaded(library: Path, isa: str, folder: Path, patch: pytest.MonkeyPatch) -> tuple[Path, onnxruntime.SessionOptions]:
    """A copy of the library, which chooses its loops when it is loaded, and what keeps it loaded."""
    patch.setenv(ISA, isa)
    copy = Path(shutil.copy(library, folder))
    settings = onnxruntime.SessionOptions()
    try:
        settings.register_custom_ops_library(str(copy))
    except Exception as error:
        if "names none of this processor's" not in str(error):
            raise
        pytest.skip(str(error))
    return copy, settings
