"""Whether a plan of TensorRT for RTX stores int8 weights as int8: the codes are looked for in its bytes.

A plan's size says little, most of it are kernels, and other ones once a weight is float: two builds of one graph, int8
and dequantised, differ by 0.46 to 0.98 bytes per weight where two widths of one network give 1.00. The weights
themselves stand in the plan as they are, output channels or input channels last, or row by row in a larger matrix where
the builder has merged products of one input.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

__all__ = ["StoredWeights", "stored_weights"]


@dataclass(frozen=True)
class StoredWeights:
    """How many weights of the graph are int8, and how many of them lie in the plan as those codes, or as the float16
    numbers that they stand for."""

    count: int
    as_int8: int
    as_float16: int

    @property
    def bytes_per_weight(self) -> float | None:
        """Of the weights that were found."""
        found = self.as_int8 + self.as_float16
        return (self.as_int8 + 2 * self.as_float16) / found if found else None

    def to_json(self) -> dict[str, Any]:
        """The entry `weights` of a plan in `tensorrt.json`."""
        return asdict(self) | {"bytes_per_weight": self.bytes_per_weight}


def stored_weights(graph: ir.Model, plan: bytes) -> StoredWeights:
    """Look for every int8 weight of `graph` in the bytes of its plan."""
    count = as_int8 = as_float16 = 0
    for codes, values in _int8_weights(graph):
        count += codes.size
        if _holds(plan, codes):
            as_int8 += codes.size
        elif _holds(plan, values):
            as_float16 += codes.size
    return StoredWeights(count, as_int8, as_float16)


def _int8_weights(graph: ir.Model) -> Iterator[tuple[NDArray[np.int8], NDArray[np.float16]]]:
    """Codes of each int8 initialiser behind a DequantizeLinear, and what they stand for."""
    for node in graph.graph:
        if node.op_type != "DequantizeLinear" or not node.inputs[0] or not node.inputs[1]:
            continue
        codes, scale = node.inputs[0].const_value, node.inputs[1].const_value
        if codes is None or scale is None or codes.dtype != ir.DataType.INT8 or codes.shape.rank() < 2:
            continue
        integers, steps = codes.numpy(), scale.numpy().astype(np.float32)
        axis = node.attributes.get_int("axis", 1) % integers.ndim
        steps = steps.reshape([-1 if index == axis else 1 for index in range(integers.ndim)]) if steps.ndim else steps
        yield integers, (integers * steps).astype(np.float16)


def _holds(plan: bytes, weight: NDArray[Any]) -> bool:
    """Whether the plan has `weight` in one piece, or all its rows one after the other."""
    matrix = weight.reshape(len(weight), -1)
    layouts = [matrix, np.moveaxis(weight, 1, -1).reshape(len(weight), -1), matrix.T]
    return any(layout.tobytes() in plan for layout in layouts) or any(_has_rows(plan, each) for each in layouts)


def _has_rows(plan: bytes, matrix: NDArray[Any]) -> bool:
    place = 0
    for row in matrix:
        place = plan.find(row.tobytes(), place) + 1
        if not place:
            return False
    return True
