"""Which torch module each node of an exported graph came from."""

import ast
import re
from functools import lru_cache

import onnx_ir as ir

from ptq_export.graph.passes.strip_metadata import NAME_SCOPES

__all__ = ["belongs_to", "module_path"]

_AS_ATTRIBUTE = re.compile(r"\.__dict__\['_modules'\]\['([^']*)'\]")


def _scopes(node: ir.Node) -> tuple[str, ...]:
    """Module paths from the outermost to the innermost."""
    text = node.metadata_props.get(NAME_SCOPES)
    return _parsed(text) if text else ()


@lru_cache(maxsize=100_000)  # each layer of a graph asks for the scopes of all of its nodes
def _parsed(text: str) -> tuple[str, ...]:
    """The exporter's last entry names the operation.

    Traced by torch's strict export (which the exporter falls back on: `len(sample)`), a child is an entry of a dict.
    """
    return tuple(_AS_ATTRIBUTE.sub(r".\1", scope) for scope in ast.literal_eval(text)[:-1] if scope)


def module_path(node: ir.Node) -> str:
    """The innermost module that made `node`, or the empty string."""
    scopes = _scopes(node)
    return scopes[-1] if scopes else ""


def belongs_to(node: ir.Node, module: str) -> bool:
    """Whether `node` was made inside `module`."""
    return module in _scopes(node)
