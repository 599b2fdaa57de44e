"""How much int8 could gain on this GPU at the most: a network's products one by one, and its step in float16.

    python -m ptq_export.benchmarks.ceiling [--ckpt random:ddim-cifar10] [--batch 8] [--json ceiling.json]

Every shape that the int8 layers multiply is timed in int8 and in float16, and the whole step in float16 by torch:
eager, as a CUDA graph, compiled. If the products took their int8 time and everything else took nothing more than in the
fastest of these steps, the step would be faster by the factor that is printed. It is a bound and no engine: TensorRT's
float16 step may be faster than torch's, and quantising costs passes of its own. On a machine without CUDA the shapes
are listed, and the program ends with exit code 3.
"""

import argparse
import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ptq_export.artifacts import write_json
from ptq_export.benchmarks.products import Product, events_ms, graph_ms, product_ms, product_of
from ptq_export.calibrators.sites import Site, find_sites, hooked
from ptq_export.checkpoints import load_checkpoint
from ptq_export.denoiser import Denoiser
from ptq_export.errors import EnvironmentMissing, InputError, PtqExportError
from ptq_export.nn.drop_variance import drop_variance
from ptq_export.nn.probe import blank, noise
from ptq_export.nn.scheme import TENSORRT
from ptq_export.pairs import Pairs

__all__ = ["bound", "find_products", "main"]

SCHEMA = 1
WHAT = "a bound from single products and torch's float16 step, not an engine"
STEPS = 5


def bound(step_ms: float, int8_ms: float, float16_ms: float) -> float | None:
    """The factor by which a step gets faster if its products take their int8 time; None where the products alone took
    longer than the step, so that nothing can be said."""
    rest_ms = step_ms - float16_ms
    return None if rest_ms <= 0 else step_ms / (rest_ms + int8_ms)


def find_products(denoiser: Denoiser, sites: Sequence[Site]) -> dict[Product, int]:
    """The products of the int8 layers among `sites`, for one sample, and how many layers have each."""
    names = [site.name for site in sites if site.sees_sample and not site.keep_float]
    layers = {name: denoiser.module.get_submodule(name) for name in names}
    found: dict[Product, int] = {}

    def record(name: str, inputs: Any, output: Tensor) -> None:
        product = product_of(layers[name], output)
        found[product] = found.get(product, 0) + 1

    with torch.no_grad(), hooked(layers, record):
        blank(denoiser).through(denoiser)
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; returns the exit code."""
    parser = argparse.ArgumentParser(prog="ceiling", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ckpt", default="random:ddim-cifar10", help="the network (default: random:ddim-cifar10)")
    parser.add_argument("--resolution", type=int, metavar="N", help="height and width, where the checkpoint has none")
    parser.add_argument("--batch", type=int, default=8, metavar="N", help="samples per step (default: 8)")
    parser.add_argument("--list", action="store_true", help="list the shapes and measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    options = parser.parse_args(arguments)
    try:
        if options.batch < 1:
            raise InputError(f"--batch {options.batch} is not positive", "give 1 or more")
        denoiser = drop_variance(load_checkpoint(options.ckpt, options.resolution))
        products = find_products(denoiser, find_sites(denoiser, TENSORRT))
        print("\n".join(_listed(products)))
        if options.list:
            return 0
        if not torch.cuda.is_available():
            raise EnvironmentMissing("torch finds no CUDA device", "run it where an NVIDIA GPU is; --list needs none")
        value = _measure(denoiser, products, options.batch) | {"ckpt": options.ckpt}
        if options.json is not None:
            write_json(options.json, value)
    except PtqExportError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join(_found(value)))
    return 0


def _listed(products: Mapping[Product, int]) -> list[str]:
    total = sum(product.macs * count for product, count in products.items())
    lines = ["rows x inner x columns of a sample, layers, share of all multiplications:"]
    for product, count in sorted(products.items(), key=lambda item: -item[0].macs * item[1]):
        shape = f"{product.rows} x {product.inner} x {product.columns}"
        lines.append(f"  {shape:<22} {count:>3} {product.macs * count / total:7.1%}")
    return [*lines, f"{sum(products.values())} layers, {total / 1e9:.2f} GMAC per sample"]


@torch.no_grad()
def _measure(denoiser: Denoiser, products: Mapping[Product, int], batch: int) -> dict[str, Any]:
    times_ms = {product: product_ms(product, batch) for product in products}
    sums_ms = {
        kind: sum(times_ms[product][kind] * count for product, count in products.items())
        for kind in ("int8", "float16")
    }
    steps_ms, not_run = _float16_steps(denoiser, batch)
    fastest_ms = min(steps_ms.values())
    rows = [
        {"rows": it.rows * batch, "inner": it.inner, "columns": it.columns, "layers": count, "ms": dict(times_ms[it])}
        for it, count in products.items()
    ]
    return {
        "schema": SCHEMA,
        "what": WHAT,
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "batch": batch,
        "products": rows,
        "products_ms": sums_ms,
        "float16_step_ms": steps_ms,
        "not_run": not_run,
        "bound": bound(fastest_ms, sums_ms["int8"], sums_ms["float16"]),
    }


def _float16_steps(denoiser: Denoiser, batch: int) -> tuple[dict[str, float], dict[str, str]]:
    """Milliseconds of the whole step in float16, and why a way of running it did not work."""
    module: nn.Module = copy.deepcopy(denoiser.module).half().cuda()
    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    feeds = noise(denoiser, batch, denoiser.schedule.num_train_timesteps // 2, 0).on(torch.device("cuda")).feeds
    halves = {name: value.half() if value.is_floating_point() else value for name, value in feeds.items()}
    pairs = Pairs.of_feeds(halves)
    found: dict[str, float] = {}
    failed: dict[str, str] = {}
    ways: dict[str, Callable[[], float]] = {
        "eager": lambda: _eager_ms(module, pairs),
        "CUDA graph": lambda: graph_ms(lambda: pairs.through(module), STEPS),
        "compiled, CUDA graph": lambda: _compiled_ms(module, pairs),
    }
    for name, way in ways.items():
        try:
            found[name] = way()
        except Exception as error:  # the compiler's are of many kinds, and any of them leaves the others
            failed[name] = str(error).splitlines()[0] if str(error) else type(error).__name__
    if not found:
        raise InputError(f"this network does not run in float16: {failed['eager']}", "try another --ckpt")
    return found, failed


def _eager_ms(module: nn.Module, pairs: Pairs) -> float:
    def steps() -> None:
        for _ in range(STEPS):
            pairs.through(module)

    steps()
    return events_ms(steps) / STEPS


def _compiled_ms(module: nn.Module, pairs: Pairs) -> float:
    compiled = torch.compile(module)
    return graph_ms(lambda: pairs.through(compiled), STEPS)


def _found(value: Mapping[str, Any]) -> list[str]:
    sums = value["products_ms"]
    lines = [f"{value['gpu']}, batch {value['batch']}, milliseconds:"]
    lines += [f"  float16 step, {name:<22} {ms:9.3f}" for name, ms in value["float16_step_ms"].items()]
    lines += [f"  float16 step, {name}: not run: {why}" for name, why in value["not_run"].items()]
    lines += [f"  products alone, {kind:<20} {ms:9.3f}" for kind, ms in sums.items()]
    gain = (
        "nothing: the products alone took longer than the step" if value["bound"] is None else f"{value['bound']:.2f}"
    )
    return [*lines, f"int8 could be faster than torch's fastest float16 step by at most {gain} ({WHAT})"]


if __name__ == "__main__":
    sys.exit(main())
