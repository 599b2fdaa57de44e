"""The products behind a network's int8 layers, and the GPU's time for each of them alone, in int8 and in float16.

A convolution of kernel kh x kw is the product of a matrix of patches with one of weights. The patches are taken to be
there, and in the cache: what no engine has for nothing. So these times are bounds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from ptq_export.calibrators.sites import Site, hooked
from ptq_export.denoiser import Denoiser

__all__ = ["Product", "find_products", "graph_ms", "product_ms"]

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


def find_products(denoiser: Denoiser, sites: Sequence[Site]) -> dict[Product, int]:
    """The products of the int8 layers among `sites`, for one sample, and how many layers have each."""
    names = [site.name for site in sites if site.sees_sample and not site.keep_float]
    layers = {name: denoiser.module.get_submodule(name) for name in names}
    found: dict[Product, int] = {}

    def record(name: str, inputs: Any, output: Tensor) -> None:
        product = _product(layers[name], output)
        found[product] = found.get(product, 0) + 1

    with torch.no_grad(), hooked(layers, record):
        time = torch.zeros(1, dtype=torch.int64)
        denoiser(torch.zeros(1, *denoiser.sample_shape), time, *denoiser.labels(1, 0))
    return found


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
    stream, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARMUP):
            call()
    stream.synchronize()
    with torch.cuda.graph(graph, stream=stream):
        for _ in range(repeats):
            call()
    times_ms = []
    for _ in range(REPLAYS):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times_ms.append(begin.elapsed_time(end) / repeats)
    return median(times_ms)


def _product(layer: nn.Module, output: Tensor) -> Product:
    weight = layer.get_parameter("weight")
    rows = output.shape[2:].numel() if isinstance(layer, nn.Conv2d) else output.shape[1:-1].numel()
    return Product(rows, weight[0].numel(), weight.shape[0])
