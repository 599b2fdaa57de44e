"""This package's own operators for ONNX Runtime (`engines/ort/custom_ops`): compiled at installation where a C++
compiler is, and used wherever they are there.

The exported graph has none of them: an engine rewrites it when it is built (`ptq_export.engines.ort.channels_last`).
The library has loops for several instruction sets and takes the best that the processor has; the environment variable
`PTQ_EXPORT_ISA` (avx512vnni, avx512, avxvnni, avx2 or baseline, read when the library is loaded) picks others, to see
what they compute and how fast. No engine depends on it.
"""

import logging
import os
import shutil
from functools import cache
from pathlib import Path

import onnx_ir as ir
import onnxruntime

from ptq_export.artifacts import sha256_file
from ptq_export.engines.ort.attention import FuseAttention
from ptq_export.engines.ort.channels_last import ChannelsLast
from ptq_export.engines.ort.idle_transposes import IdleTransposes
from ptq_export.engines.ort.winograd import Choice, Winograd
from ptq_export.errors import InputError
from ptq_export.provenance import note_operators

__all__ = ["compiler", "library", "library_version", "missing_operators", "register", "serialised", "with_operators"]

logger = logging.getLogger(__name__)
ISA = "PTQ_EXPORT_ISA"
COMPILERS = ("c++", "g++", "clang++")
SLOWER = "the int8 step is slower than it could be"


@cache
def library() -> Path | None:
    """The compiled operators; None where they were not compiled or this ONNX Runtime cannot load them.

    Raises:
        InputError: `PTQ_EXPORT_ISA` names no instruction set of this processor.
    """
    found = _compiled()
    if found is None:
        return None
    try:
        onnxruntime.SessionOptions().register_custom_ops_library(str(found))
    except Exception as error:  # ONNX Runtime's own exceptions have no base class of theirs.
        if ISA in str(error):
            raise InputError(str(error), f"unset {ISA}, or set it to one of them") from error
        logger.warning("%s is not used: %s", found.name, error)
        return None
    if os.environ.get(ISA):
        logger.warning("%s=%s: the operators take the loops for that instruction set", ISA, os.environ[ISA])
    return found


def library_version() -> str:
    """What an engine that was built with the operators depends on: their digest; `none` without them."""
    found = library()
    if found is None:
        return "none"
    sha256 = sha256_file(found)
    note_operators(found, sha256)
    return sha256


def compiler() -> str | None:
    """A C++ compiler that can make the operators; None where none is."""
    named = os.environ.get("CXX", "").split()[:1]
    return next(filter(None, map(shutil.which, [*named, *COMPILERS])), None)


def missing_operators() -> str:
    """What to do where the operators are missing, whatever the cause; empty where they are there."""
    if library() is not None:
        return ""
    if _compiled() is not None:
        return f"{SLOWER}: this ONNX Runtime cannot load the operators; install this package again"
    if compiler() is None:
        return f"{SLOWER}: install g++ or clang++, then this package again"
    return f"{SLOWER}: a C++ compiler is here, but its build failed; `pip install -v` of this package says why"


def register(settings: onnxruntime.SessionOptions) -> onnxruntime.SessionOptions:
    """`settings`, which now know the operators, if they are there."""
    found = library()
    if found is not None:
        settings.register_custom_ops_library(str(found))
    return settings


def with_operators(graph: ir.Model, choice: Choice) -> ir.Model | None:
    """The graph, with this package's operators now, and rewritten around them; None where they are absent or nothing is
    to gain."""
    if library() is None or not ChannelsLast()(graph).modified:
        return None
    Winograd(choice)(graph)
    FuseAttention()(graph)
    IdleTransposes()(graph)
    return graph


def serialised(graph: ir.Model) -> bytes:
    """A graph as a session takes it."""
    return bytes(ir.to_proto(graph).SerializeToString())


def _compiled() -> Path | None:
    return next(Path(__file__).parent.glob("custom_ops/operators.*"), None)
