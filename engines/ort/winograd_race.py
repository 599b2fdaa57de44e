"""Which convolutions are faster by Winograd's method, on this machine: a race settles it.

Both operators give the same codes, so only time decides. Every shape is raced once per process, one image at a time,
while an engine is built, and the graph that is kept for the engine holds the outcome.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ptq_export.engines.ort.nhwc_values import CONTRIB, OURS, Attribute
from ptq_export.engines.ort.operators import register, serialised
from ptq_export.engines.ort.session import CPU, Level, open_session, session_settings
from ptq_export.engines.ort.winograd import Choice, Convolution, Winograd

__all__ = ["Times", "faster_here", "race"]

LEAST_ROUNDS, SECONDS = 5, 0.05
MOST_OUTPUTS = 128
"""Of a racing convolution: more take more time, in proportion for both."""


@dataclass(frozen=True)
class Times:
    """The shortest seconds of each method."""

    direct_s: float
    winograd_s: float

    def least(self, other: "Times") -> "Times":
        """Of each method the shorter."""
        return Times(min(self.direct_s, other.direct_s), min(self.winograd_s, other.winograd_s))


def faster_here(threads: int) -> Choice:
    """Whether a convolution is faster by Winograd's method on so many threads; 0: one per core."""
    return lambda convolution: _wins(replace(convolution, outputs=min(convolution.outputs, MOST_OUTPUTS)), threads)


@cache
def _wins(convolution: Convolution, threads: int) -> bool:
    times = race(convolution, threads)
    return times.winograd_s < times.direct_s


def race(convolution: Convolution, threads: int, images: int = 1, seconds: float = SECONDS, layers: int = 1) -> Times:
    """Let both methods take turns on so many images, for so many seconds and some rounds at least.

    A call wakes its threads, which slept in the other's turn. With more `layers`, one after the other, that counts
    for less of each, as in a network.
    """
    graph = _graph(convolution, layers)
    direct = _racer(graph, convolution, threads, images)
    Winograd(lambda _: True)(graph)
    winograd = _racer(graph, convolution, threads, images)
    direct(), winograd()
    times, rounds = Times(float("inf"), float("inf")), 0
    end = time.perf_counter() + seconds
    while rounds < LEAST_ROUNDS or time.perf_counter() < end:
        times = times.least(Times(_seconds(direct) / layers, _seconds(winograd) / layers))
        rounds += 1
    return times


def _seconds(racer: Callable[[], object]) -> float:
    start = time.perf_counter()
    racer()
    return time.perf_counter() - start


def _racer(graph: ir.Model, convolution: Convolution, threads: int, images: int) -> Callable[[], object]:
    settings = register(session_settings(threads, Level.ORT_DISABLE_ALL))
    session = open_session(serialised(graph), settings, (CPU,))
    image = np.full((images, convolution.height, convolution.width, convolution.inputs), 128, np.uint8)
    return partial(session.run, None, {"image": image})


def _graph(convolution: Convolution, layers: int) -> ir.Model:
    """So many QLinearConvs of one shape and image, channels last, each with some weights of its own."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-64, 65, (layers, convolution.outputs, convolution.inputs, 3, 3)).astype(np.int8)
    one, step, middle = np.array(1, np.float32), np.array(1e5, np.float32), np.array(128, np.uint8)
    zero_points, scales = np.zeros(convolution.outputs, np.int8), np.ones(convolution.outputs, np.float32)
    numbers: dict[str, NDArray[Any]] = {"x_scale": one, "x_zero": middle, "scales": scales, "zeros": zero_points}
    numbers |= {"y_scale": step, "y_zero": middle}
    numbers |= {f"weight_{layer}": weight for layer, weight in enumerate(weights)}
    values = {name: ir.Value(name=name, const_value=ir.tensor(it, name=name)) for name, it in numbers.items()}
    top, left, bottom, right = convolution.pads
    height, width = convolution.height + top + bottom - 2, convolution.width + left + right - 2
    image = _value("image", [None, convolution.height, convolution.width, convolution.inputs])
    attributes: dict[str, Attribute] = {
        "channels_last": 1,
        "kernel_shape": [3, 3],
        "pads": list(convolution.pads),
    }
    nodes, codes = [], []
    for layer in range(layers):
        names = ("x_scale", "x_zero", f"weight_{layer}", "scales", "zeros", "y_scale", "y_zero")
        codes.append(_value(f"codes_{layer}", [None, height, width, convolution.outputs]))
        inputs = [image, *(values[name] for name in names)]
        nodes.append(ir.node("QLinearConv", inputs, attributes, domain=CONTRIB, outputs=[codes[-1]]))
    imports = {"": 18, CONTRIB: 1, OURS: 1}
    graph = ir.Graph([image], codes, nodes=nodes, initializers=[*values.values()], opset_imports=imports, name="race")
    return ir.Model(graph, ir_version=10)


def _value(name: str, sizes: list[int | None]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(sizes), type=ir.TensorType(ir.DataType.UINT8))
