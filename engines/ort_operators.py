"""This package's own operators for ONNX Runtime (`engines/channels_last`): compiled at installation where a C++
compiler is, and used wherever they are there.

The exported graph has none of them: an engine rewrites it when it is built (`ptq_export.graph.channels_last`).
"""

import logging
from functools import cache
from pathlib import Path

import onnx_ir as ir
import onnxruntime

from ptq_export.artifacts import sha256_file
from ptq_export.graph.channels_last import ChannelsLast

__all__ = ["library", "library_version", "missing_operators", "register", "with_operators"]

logger = logging.getLogger(__name__)


@cache
def library() -> Path | None:
    """The compiled operators; None where they were not compiled or this ONNX Runtime cannot load them."""
    found = next(Path(__file__).parent.glob("channels_last/operators.*"), None)
    if found is None:
        return None
    try:
        onnxruntime.SessionOptions().register_custom_ops_library(str(found))
    except Exception as error:  # ONNX Runtime's own exceptions have no base class of theirs.
        logger.warning("%s is not used: %s", found.name, error)
        return None
    return found


def library_version() -> str:
    """What an engine that was built with the operators depends on: their digest; `none` without them."""
    found = library()
    return "none" if found is None else sha256_file(found)


def missing_operators() -> str:
    """What is missing where the operators are; empty where they are there."""
    if library() is not None:
        return ""
    return "the int8 step is slower than it could be: install a C++ compiler, then this package again"


def register(settings: onnxruntime.SessionOptions) -> onnxruntime.SessionOptions:
    """`settings`, which now know the operators, if they are there."""
    found = library()
    if found is not None:
        settings.register_custom_ops_library(str(found))
    return settings


def with_operators(graph: ir.Model) -> bytes | None:
    """The graph with this package's operators, serialised; None where they are absent or nothing is to gain."""
    if library() is None or not ChannelsLast()(graph).modified:
        return None
    return bytes(ir.to_proto(graph).SerializeToString())
