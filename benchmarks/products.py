"""The products behind a network's int8 layers, and the GPU's time for each of them alone, in int8 and in float16.

A convolution of kernel kh x kw is the product of a matrix of patches with one of weights. The patches are taken to be
there, and in the cache: what no engine has for nothing. So these times are bounds.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor, nn

__all__ = ["Product", "events_ms", "graph_ms", "product_ms", "product_of"]

MULTIPLE = 8  # of inner and columns, which torch's int8 product asks for
LEAST_ROWS = 32
WARMUP, REPEATS, REPLAYS = 3, 20, 11


@dataclass(frozen=True)
class Product:
    """`[rows, inner]` by `[inner, columns]`: places of the result (of one sample), what is summed up, and channels."""

    rows: int
    inner: int
    columns: int

    @property
    def macs(self) -> int:
        """Multiplications of one sample."""
        return self.rows * self.inner * self.columns


def product_of(layer: nn.Module, output: Tensor) -> Product:
    """The product behind a convolution or linear that has made `output` of one sample."""
    weight = layer.get_parameter("weight")
    rows = output.shape[2:].numel() if isinstance(layer, nn.Conv2d) else output.shape[1:-1].numel()
    return Product(rows, weight[0].numel(), weight.shape[0])


def product_ms(product: Product, batch: int) -> Mapping[str, float]:
    """Median milliseconds of the product for `batch` samples, on the current CUDA device: `int8` (`torch._int_mm`, its
    sums 32 bits wide) and `float16`."""
    rows = max(LEAST_ROWS, product.rows * batch)
    inner, columns = (-(-size // MULTIPLE) * MULTIPLE for size in (product.inner, product.columns))
    x = torch.randint(-127, 128, (rows, inner), dtype=torch.int8, device="cuda")
    w = torch.randint(-127, 128, (columns, inner), dtype=torch.int8, device="cuda").t()
    half_x, half_w = (torch.randn_like(value, dtype=torch.float16) for value in (x, w))
    int_mm: Callable[[Tensor, Tensor], Tensor] = torch._int_mm
    return {
        "int8": graph_ms(lambda: int_mm(x, w)),
        "float16": graph_ms(lambda: torch.mm(half_x, half_w)),
    }


def graph_ms(call: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median milliseconds of a call, launched as a CUDA graph of so many of them, by events around the graph."""
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUP):
            call()
    stream.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(repeats):
            call()
    return median(events_ms(graph.replay) / repeats for _ in range(REPLAYS))


def events_ms(call: Callable[[], object]) -> float:
    """Milliseconds between two events around a call."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    begin.record()
    call()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end))
