#!/usr/bin/env python3
"""Build a TensorRT plan from an ONNX graph: `python build_plan.py denoiser.trt-int8.onnx --batch 1:4:64`.

This file stands alone. It runs where the plan will run, with the Python and the TensorRT (10 or 11) of that machine and
nothing else, which is why it is written for Python 3.8; ptq-export runs it in a process of its own, because some graphs
crash the builder. `--package tensorrt_rtx` builds for RTX GPUs on a machine that has none.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

__all__ = ["BATCH", "UNUSABLE", "main", "typings"]

OK, REFUSED = 0, 1
UNUSABLE = 3
BATCH = (1, 4, 64)


def main(arguments: Sequence[str] | None = None, adjust: Callable[[Any, Any, Any, Any], None] | None = None) -> int:
    """The program; the last line on stdout describes the plan as JSON.

    `adjust(trt, builder, network, config)` is called before every build, for what only the caller knows of the device.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("onnx", type=Path, help="graph with Q/DQ nodes")
    parser.add_argument("--plan", type=Path, help="file to write (default: the graph's name with .plan)")
    parser.add_argument("--batch", type=_batch_range, default=BATCH, metavar="MIN:OPT:MAX", help="default: 1:4:64")
    parser.add_argument("--workspace", type=int, metavar="MIB", help="limit of the builder's scratch memory")
    parser.add_argument("--timing-cache", type=Path, metavar="FILE", help="kept between builds on one device")
    parser.add_argument("--package", default="tensorrt", choices=("tensorrt", "tensorrt_rtx"))
    options = parser.parse_args(arguments)
    options.adjust = adjust
    options.plan = options.plan or options.onnx.with_suffix(".plan")
    try:
        trt = importlib.import_module(options.package)
    except ImportError as error:
        print(f"{options.package} cannot be imported: {error}", file=sys.stderr)
        return UNUSABLE
    if not typings(trt):
        print(
            f"TensorRT {trt.__version__} cannot parse these graphs (opset 20): 10 or newer is needed", file=sys.stderr
        )
        return UNUSABLE
    started = time.monotonic()
    logger = trt.Logger(trt.Logger.WARNING)
    try:
        builder = trt.Builder(logger)
    except TypeError:  # what TensorRT's factory ends in without a CUDA device
        print(f"{options.package} {trt.__version__} finds no GPU", file=sys.stderr)
        return UNUSABLE
    for strongly_typed in typings(trt):
        config = builder.create_builder_config()
        plan = _build(trt, builder, config, logger, options, strongly_typed)
        if plan is not None:
            _write_whole(options.plan, bytes(plan))
            _keep_timing_cache(config, options.timing_cache)
            seconds = round(time.monotonic() - started, 2)
            found: dict[str, Any] = {"version": trt.__version__, "strongly_typed": strongly_typed, "seconds": seconds}
            print(json.dumps(found))
            return OK
    return REFUSED


def _batch_range(text: str) -> tuple[int, int, int]:
    """`4` or `1:4:16` as least, usual and largest batch."""
    sizes = [int(part) for part in text.split(":")]
    sizes = sizes * 3 if len(sizes) == 1 else sizes
    if len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX")
    return sizes[0], sizes[1], sizes[2]


def typings(trt: Any) -> list[bool]:
    """Whether the network is strongly typed, what to try first.

    | TensorRT      |                                                               |
    |---------------|---------------------------------------------------------------|
    | before 10     | cannot parse the graphs                                       |
    | 10.0 to 10.11 | strong typing with gaps: else the flags INT8 and FP16         |
    | 10.12 to 11   | strong typing; 11 knows nothing else. TensorRT for RTX alike  |
    """
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if trt.__name__ == "tensorrt_rtx" or version >= (10, 12):
        return [True]
    return [True, False] if version >= (10, 0) else []


def _build(trt: Any, builder: Any, config: Any, logger: Any, options: argparse.Namespace, strongly_typed: bool) -> Any:
    """The serialised plan, or None after TensorRT's own messages on stderr."""
    network = builder.create_network(_creation_flags(trt, strongly_typed))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(options.onnx)):
        for index in range(parser.num_errors):
            print(f"[E] {parser.get_error(index)}", file=sys.stderr)
        return None
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if not strongly_typed:
        config.set_flag(trt.BuilderFlag.INT8)
        config.set_flag(trt.BuilderFlag.FP16)
    if options.workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        profile.set_shape(tensor.name, *[(batch, *tuple(tensor.shape)[1:]) for batch in options.batch])
    config.add_optimization_profile(profile)
    if options.timing_cache:
        known = options.timing_cache.read_bytes() if options.timing_cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), False)
    if options.adjust:
        options.adjust(trt, builder, network, config)
    return builder.build_serialized_network(network, config)


def _creation_flags(trt: Any, strongly_typed: bool) -> int:
    """Bits for `create_network`; a version that knows no other typing may have dropped the flag."""
    known = trt.NetworkDefinitionCreationFlag
    return 1 << int(known.STRONGLY_TYPED) if strongly_typed and hasattr(known, "STRONGLY_TYPED") else 0


def _keep_timing_cache(config: Any, path: Any) -> None:
    cache = config.get_timing_cache() if path else None
    if cache is not None:  # one that another device made is not taken
        _write_whole(path, bytes(cache.serialize()))


def _write_whole(target: Path, content: bytes) -> None:
    """The file is written whole or not at all."""
    handle, name = tempfile.mkstemp(dir=str(target.parent), prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.chmod(name, 0o644)  # noqa: PTH101
        os.replace(name, str(target))  # noqa: PTH105
    except BaseException:
        os.unlink(name)  # noqa: PTH108
        raise


if __name__ == "__main__":
    sys.exit(main())
