"""The layers of a run grouped by block of the network, in the order of the engine's graph."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptq_export.report.tables import against_intent

__all__ = ["LayerBlock", "LayerCell", "layer_map"]

Json = Mapping[str, Any]


@dataclass(frozen=True)
class LayerCell:
    """One layer; `state` is `int8`, `float` or `broken` (float although int8 was intended)."""

    state: str
    tip: str


@dataclass(frozen=True)
class LayerBlock:
    """The layers of `down_blocks.0`, `mid_block`, `conv_in`, ..."""

    name: str
    cells: list[LayerCell]

    @property
    def int8(self) -> int:
        """How many of them run int8."""
        return sum(cell.state == "int8" for cell in self.cells)


def layer_map(layers: Json) -> list[LayerBlock]:
    """Group the layers of `layers.json` by block, blocks in order of first appearance."""
    names = [layer["name"].split(".") for layer in layers["layers"]]
    wrapped = len({name[0] for name in names}) == 1 and all(len(name) > 1 for name in names)
    blocks: dict[str, list[LayerCell]] = {}
    for name, layer in zip(names, layers["layers"], strict=True):
        blocks.setdefault(_block_name(name[1:] if wrapped else name), []).append(_cell(layer))
    return [LayerBlock(name, cells) for name, cells in blocks.items()]


def _block_name(path: list[str]) -> str:
    return ".".join(path[:2]) if len(path) > 2 and path[1].isdigit() else path[0]


def _cell(layer: Json) -> LayerCell:
    state = "broken" if against_intent(layer) else layer["precision"]
    kernel = layer.get("executed")
    runs = f"{layer['op']}, runs {layer['precision']}" + (f" as {kernel}" if kernel else "")
    lines = [layer["name"], runs, layer["reason"]]
    return LayerCell(state, "\n".join(line for line in lines if line))
