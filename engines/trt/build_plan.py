#!/usr/bin/env python3
"""Build a TensorRT plan from an ONNX graph: `python build_plan.py denoiser.trt-int8.onnx --batch 1:4:64`.

This file stands alone. It runs where the plan will run, with the Python and the TensorRT (8.5, 8.6, 10 or 11) of that
machine and nothing else, which is why it is written for Python 3.8; ptq-export runs it in a process of its own, because
some graphs crash the builder. `--package tensorrt_rtx` builds for RTX GPUs on a machine that has none: for compute
capability 8.0 and newer, or for those that `--compute-capability` names alone.
"""

from __future__ import annotations

import argparse
import ctypes
import importlib
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

__all__ = [
    "BATCH",
    "FLOAT32",
    "RTX",
    "UNUSABLE",
    "Typing",
    "batch_sizes",
    "capability_names",
    "load_plugins",
    "main",
    "timing_cache_file",
    "typings",
]

OK, REFUSED = 0, 1
UNUSABLE = 3
BATCH = (1, 4, 64)
RTX = "tensorrt_rtx"
FLOAT32 = "_in_float32"
"""In the name of an ONNX node: not to be computed in float16."""


class Typing(NamedTuple):
    """A way to tell TensorRT which precision is meant: flags of the network and of the builder, and which graph is
    needed where the usual one (opset 20, float16 around the Q/DQ nodes) is not read."""

    network: tuple[str, ...]
    builder: tuple[str, ...]
    graph: str = ""


TYPED = Typing(("STRONGLY_TYPED",), ())
FLAGGED = Typing(("EXPLICIT_BATCH",), ("INT8", "FP16"))
OLD = Typing(
    ("EXPLICIT_BATCH",),
    ("INT8", "FP16"),
    "opset 17 or older with float32 around the Q/DQ nodes: QuantizeLinear reads float16 from opset 19 on",
)
VERSIONS = (
    # from version, what to try in this order
    ((11, 0), (TYPED,)),  # nothing else is left: weak typing and the flags INT8, FP16 are gone
    ((10, 12), (TYPED,)),
    ((10, 0), (TYPED, FLAGGED)),  # strong typing has gaps
    ((8, 5), (OLD,)),  # JetPack 5; 8.6 alike
)
"""Everything that depends on the version of TensorRT. TensorRT for RTX, any version, is like TensorRT 11."""


def main(
    arguments: Sequence[str] | None = None,
    adjust: Callable[[Any, Any, Any, Any], None] | None = None,
    logger: Any = None,
    builder: Any = None,
) -> int:
    """The program; the last line on stdout describes the plan as JSON.

    `adjust(trt, builder, network, config)` is called before every build, for what only the caller knows of the device.
    TensorRT's messages go to the console, or to `logger`, an `ILogger`. `builder` is one with that logger, from
    whoever builds many plans: a new one loads all kernels.
    """
    options = _arguments(arguments)
    options.adjust = adjust
    try:
        trt = importlib.import_module(options.package)
    except ImportError as error:
        print(f"{options.package} cannot be imported: {error}", file=sys.stderr)
        return UNUSABLE
    ways = typings(trt, options.flags_first)
    if not ways:
        print(f"TensorRT {trt.__version__} cannot build these graphs: 8.5 or newer is needed", file=sys.stderr)
        return UNUSABLE
    if options.fp16:
        ways = tuple(way for way in ways if "FP16" in way.builder)
        if not ways:
            print(f"{options.package} {trt.__version__} has no FP16 flag: give it a float16 graph", file=sys.stderr)
            return UNUSABLE
    started = time.monotonic()
    logger = logger or trt.Logger(trt.Logger.WARNING)
    try:
        builder = builder or trt.Builder(logger)
    except TypeError:  # what TensorRT's factory ends in without a CUDA device
        print(f"{options.package} {trt.__version__} finds no GPU", file=sys.stderr)
        return UNUSABLE
    load_plugins(trt, logger)
    known = getattr(trt, "ComputeCapability", None)
    unknown = [name for name in options.compute_capability if not hasattr(known, name)]
    if unknown:
        print(f"{options.package} {trt.__version__} cannot build for {', '.join(unknown)}", file=sys.stderr)
        return UNUSABLE
    for way in ways:
        config = builder.create_builder_config()
        plan = _build(trt, builder, config, logger, options, way)
        if plan is not None:
            _write_whole(options.plan, bytes(plan))
            _keep_timing_cache(config, options.timing_cache)
            found: dict[str, Any] = {"version": trt.__version__, "strongly_typed": way is TYPED}
            print(json.dumps({**found, "seconds": round(time.monotonic() - started, 2)}))
            return OK
    if ways[-1].graph:
        print(f"[E] TensorRT {trt.__version__} needs a graph of {ways[-1].graph}", file=sys.stderr)
    return REFUSED


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("onnx", type=Path, help="graph with Q/DQ nodes")
    parser.add_argument("--plan", type=Path, help="file to write (default: the graph's name with .plan)")
    parser.add_argument("--batch", type=batch_sizes, default=BATCH, metavar="MIN:OPT:MAX", help="default: 1:4:64")
    parser.add_argument("--workspace", type=int, metavar="MIB", help="limit of the builder's scratch memory")
    parser.add_argument("--builder-level", type=int, choices=range(6), help="0 builds fastest, 5 searches longest")
    parser.add_argument(
        "--timing-cache", type=Path, metavar="FILE", help="default: beside the plan, one per device and version"
    )
    parser.add_argument(
        "--fp16",
        action="store_true",
        help="compute a float32 graph in float16 (TensorRT before strong typing: 8.5, 8.6)",
    )
    parser.add_argument(
        "--flags-first",
        action="store_true",
        help="TensorRT 10: tell the precisions by the builder's flags, as its DLA wants, before strong typing is tried",
    )
    parser.add_argument("--package", default="tensorrt", choices=("tensorrt", RTX))
    parser.add_argument(
        "--compute-capability",
        type=capability_names,
        default=(),
        metavar="X.Y,...",
        help="the GPUs that the plan is for, of " + RTX + " alone: 7.5 for Turing (default: 8.0 and newer)",
    )
    options = parser.parse_args(arguments)
    if options.compute_capability and options.package != RTX:
        parser.error("--compute-capability is for --package " + RTX + ": TensorRT builds for the GPU that is there")
    options.plan = options.plan or options.onnx.with_suffix(".plan")
    return options


def batch_sizes(text: str) -> tuple[int, int, int]:
    """`4` or `1:4:16` as least, usual and largest batch."""
    sizes = [int(part) for part in text.split(":")]
    sizes = sizes * 3 if len(sizes) == 1 else sizes
    if len(sizes) != 3 or not 1 <= sizes[0] <= sizes[1] <= sizes[2]:
        raise argparse.ArgumentTypeError(f"{text!r} is not MIN:OPT:MAX with 1 <= MIN <= OPT <= MAX")
    return sizes[0], sizes[1], sizes[2]


def capability_names(text: str) -> tuple[str, ...]:
    """`7.5` or `8.6,12.0` by the names of TensorRT for RTX, `SM86` and `SM120`."""
    found = [re.fullmatch(r"(\d+)\.(\d)", part) for part in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"{text!r} is not X.Y or X.Y,X.Y")
    return tuple("SM" + match.group(1) + match.group(2) for match in found if match)


def typings(trt: Any, flags_first: bool = False) -> tuple[Typing, ...]:
    """How this version may be told the precisions, what to try first; nothing where it is too old.

    With `flags_first` every TensorRT 10 is told by flags before strong typing is tried.
    """
    version = tuple(int(part) for part in trt.__version__.split(".")[:2])
    if trt.__name__ == RTX:
        return VERSIONS[0][1]
    if flags_first and version[0] == 10:
        return FLAGGED, TYPED
    return next((ways for least, ways in VERSIONS if version >= least), ())


def load_plugins(trt: Any, logger: Any) -> None:
    """Register TensorRT's own plugins, of which the parser of 8.5 and 8.6 makes layers: a plan that has one is not
    loaded without them. From TensorRT 10 on there are none in our plans, and the library is not loaded."""
    if trt.__name__ != RTX and trt.__version__.startswith("8."):
        trt.init_libnvinfer_plugins(logger, "")


def timing_cache_file(folder: Path, package: str, version: str, device: str) -> Path:
    """What one device has measured with one version: another's is of no use to it."""
    return folder / f"timing-{re.sub(r'[^A-Za-z0-9.]+', '-', f'{package}-{version}-{device}')}.cache"


def _build(trt: Any, builder: Any, config: Any, logger: Any, options: argparse.Namespace, way: Typing) -> Any:
    """The serialised plan, or None after TensorRT's own messages on stderr."""
    network = builder.create_network(_bits(trt.NetworkDefinitionCreationFlag, way.network))
    parser = trt.OnnxParser(network, logger)
    _take_native_norms(trt, parser)
    if not parser.parse_from_file(str(options.onnx)):
        for index in range(parser.num_errors):
            print(f"[E] {parser.get_error(index)}", file=sys.stderr)
        return None
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    for flag in (*_needed(trt, network, way.builder, options.fp16), *_recordable(trt)):
        config.set_flag(getattr(trt.BuilderFlag, flag))
    if "FP16" in way.builder:
        _keep_float32(trt, network, config)
    if options.workspace:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
    if options.builder_level is not None and hasattr(config, "builder_optimization_level"):  # from 8.6 on
        config.builder_optimization_level = options.builder_level
    if options.compute_capability:
        config.num_compute_capabilities = len(options.compute_capability)
        for index, name in enumerate(options.compute_capability):
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    _add_profile(builder, network, config, options.batch)
    if options.timing_cache is None and options.package != RTX:  # whose cache asks for a GPU
        device = _device_name()
        options.timing_cache = timing_cache_file(options.plan.parent, options.package, trt.__version__, device)
    if options.timing_cache:
        known = options.timing_cache.read_bytes() if options.timing_cache.is_file() else b""
        config.set_timing_cache(config.create_timing_cache(known), False)
    if options.adjust:
        options.adjust(trt, builder, network, config)
    return builder.build_serialized_network(network, config)


def _add_profile(builder: Any, network: Any, config: Any, batches: tuple[int, int, int]) -> None:
    """Let the first dimension of the inputs that leave it open be any of `batches`; one batch alone becomes a part of
    the network, of which every shape is known then."""
    tensors = [network.get_input(index) for index in range(network.num_inputs)]
    dynamic = [tensor for tensor in tensors if -1 in tuple(tensor.shape)]
    if batches[0] == batches[2]:
        for tensor in dynamic:
            tensor.shape = (batches[0], *tuple(tensor.shape)[1:])
        return
    profile = builder.create_optimization_profile()
    for tensor in dynamic:
        profile.set_shape(tensor.name, *[(batch, *tuple(tensor.shape)[1:]) for batch in batches])
    if dynamic:
        config.add_optimization_profile(profile)


def _take_native_norms(trt: Any, parser: Any) -> None:
    """TensorRT's own instance norm and not its plugin: 8.6 has to be told, later ones take it anyway, 8.5 has none."""
    if hasattr(trt, "OnnxParserFlag"):
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)


def _keep_float32(trt: Any, network: Any, config: Any) -> None:
    """Without strong typing TensorRT may compute anything in float16; the layers whose names say so must not, as far
    as it has kernels: sums of squares overflow there."""
    kept = [layer for layer in map(network.get_layer, range(network.num_layers)) if FLOAT32 in layer.name]
    for layer in kept:
        layer.precision = trt.float32
        for index in range(layer.num_outputs):
            layer.set_output_type(index, trt.float32)
    if kept:
        config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)


def _needed(trt: Any, network: Any, flags: tuple[str, ...], fp16: bool = False) -> tuple[str, ...]:
    """All flags for a graph with Q/DQ nodes; else only FP16, and only where the graph has float16 or `fp16` asks for
    it: a float32 baseline stays one."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    if any(layer.type == trt.LayerType.QUANTIZE for layer in layers):
        return flags
    types = {layer.get_output(index).dtype for layer in layers for index in range(layer.num_outputs)}
    return tuple(flag for flag in flags if flag == "FP16" and (fp16 or trt.float16 in types))


def _recordable(trt: Any) -> tuple[str, ...]:
    """The flag without which TensorRT for RTX, from 1.2 on, may allocate in a step: no CUDA graph can hold that."""
    flag = "REQUIRE_USER_ALLOCATION"
    return (flag,) if trt.__name__ == RTX and hasattr(trt.BuilderFlag, flag) else ()


def _bits(known: Any, names: tuple[str, ...]) -> int:
    """Flags for `create_network`; a version that knows no other way may have dropped the name of it."""
    return sum(1 << int(getattr(known, name)) for name in names if hasattr(known, name))


def _device_name() -> str:
    """The GPU by the name that its driver gives it."""
    name = ctypes.create_string_buffer(256)
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return "unknown"
    return name.value.decode() if driver.cuInit(0) + driver.cuDeviceGetName(name, 256, 0) == 0 else "unknown"


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
