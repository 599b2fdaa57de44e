"""The programs of a Jetson bundle, imported as they import each other there: from one folder."""

import importlib
import sys
from pathlib import Path
from typing import Any

from ptq_export.engines.trt import build_plan

BUILDER = Path(str(build_plan.__file__))
FOLDER = BUILDER.parents[1] / "jetson" / "on_device"
PROGRAMS = [BUILDER, *sorted(FOLDER.glob("*.py"))]


def program(name: str) -> Any:
    """The module called `name` in the bundle."""
    path = list(sys.path)
    sys.path[:0] = [str(FOLDER), str(BUILDER.parent)]
    try:
        return importlib.import_module(name)
    finally:
        sys.path[:] = path
