#!/usr/bin/env python3
"""Build this bundle's engines on the Jetson that will run them: `python3 build.py`.

It needs JetPack alone (its Python and its TensorRT) and leaves `denoiser.plan`, int8, and `baseline.plan`, the same
network in float16 to compare it with; each has a sidecar that says for which device, TensorRT and ONNX file it was
built. The last line on stdout is the sidecar of `denoiser.plan`. Exit codes: 0 done, 1 TensorRT refuses a graph, 2
usage or a damaged bundle, 3 no TensorRT or no GPU, which is found out before the long build.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import build_plan
import cuda_runtime
import device

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
USAGE, UNUSABLE = 2, 3


def main(arguments: list[str] | None = None) -> int:
    """The program."""
    options = _parse(arguments)
    try:
        bundle = device.read_description(HERE)
    except ValueError as error:
        print(error, file=sys.stderr)
        return USAGE
    batch = options.batch or (bundle["batch"] if options.dla is None else bundle["batch"][:1])
    if options.dla is not None and len(set(batch)) > 1:
        print("the DLA takes one batch size only: give --batch N", file=sys.stderr)
        return USAGE
    try:
        tensorrt, gpu = _versions()
    except ImportError as error:
        print(f"tensorrt cannot be imported: {error}", file=sys.stderr)
        return UNUSABLE
    except cuda_runtime.CudaError as error:
        print(f"this machine cannot run the engine: {error}", file=sys.stderr)
        return UNUSABLE
    plan = HERE / ("denoiser.plan" if options.dla is None else f"denoiser-dla{options.dla}.plan")
    flags, adjust = ([], None) if options.dla is None else (["--flags-first"], _onto_dla(options.dla))
    code = _build(bundle, plan, batch, options, flags, adjust)
    if code:
        return code
    sidecar = _write_sidecar(plan, device.identity(bundle, tensorrt, gpu), batch, options.dla)
    if options.dla is None and not options.no_baseline:
        baseline, plan = bundle["baseline"], HERE / "baseline.plan"
        code = _build(baseline, plan, batch, options, ["--fp16"] if baseline["fp16"] == "flag" else [], None)
        if code:
            print("denoiser.plan is built, its float16 baseline is not; --no-baseline leaves it out", file=sys.stderr)
            return code
        _write_sidecar(plan, device.identity(baseline, tensorrt, gpu), batch, None)
    print(json.dumps(sidecar))
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--batch", type=build_plan.batch_sizes, metavar="N or MIN:OPT:MAX", help="default: the bundle's"
    )
    parser.add_argument(
        "--workspace", type=int, metavar="MIB", help="limit of the builder's memory (default: half of what is free)"
    )
    parser.add_argument(
        "--dla",
        type=int,
        metavar="CORE",
        help="use this DLA core for the layers that it can run; the GPU does the rest. The baseline is not built",
    )
    parser.add_argument("--no-baseline", action="store_true", help="do not build the float16 engine, which takes long")
    return parser.parse_args(arguments)


def _build(
    graph: dict[str, Any],
    plan: Path,
    batch: Sequence[int],
    options: argparse.Namespace,
    also: list[str],
    adjust: Callable[[Any, Any, Any, Any], None] | None,
) -> int:
    """Build one plan; the builder's exit code."""
    command = [str(HERE / graph["onnx"]), "--plan", str(plan), "--batch", ":".join(map(str, batch)), *also]
    workspace = options.workspace or _half_of_what_is_free()
    command += ["--workspace", str(workspace)] if workspace else []
    code: int = build_plan.main(command, adjust)
    return code


def _half_of_what_is_free() -> int | None:
    """The builder shares the memory with everything else: weights, tactics and the desktop take the other half."""
    free = device.available_mib()
    return max(64, free // 2) if free else None


def _onto_dla(core: int) -> Callable[[Any, Any, Any, Any], None]:
    """Prefer the DLA, and print every layer that stays on the GPU.

    Raises (when called):
        SystemExit: this Jetson has no such core.
    """

    def adjust(trt: Any, builder: Any, network: Any, config: Any) -> None:
        if core >= builder.num_DLA_cores:
            print(f"this Jetson has {builder.num_DLA_cores} DLA cores; leave out --dla", file=sys.stderr)
            raise SystemExit(UNUSABLE)
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        fallen = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
        print(f"{len(layers) - len(fallen)} of {len(layers)} layers can run on DLA core {core}", file=sys.stderr)
        for name in fallen:
            print(f"  on the GPU: {name}", file=sys.stderr)

    return adjust


def _versions() -> tuple[str, str]:
    """Of TensorRT, and the GPU's compute capability."""
    import tensorrt

    return tensorrt.__version__, cuda_runtime.CudaRuntime().compute_capability()


def _write_sidecar(plan: Path, here: dict[str, Any], batch: Sequence[int], dla: int | None) -> dict[str, Any]:
    """Written after the plan: one without the other is not loaded."""
    here["options"] = {"batch": (list(batch) * 3)[:3], "dla": dla}
    here.update(file_sha256=device.sha256_file(plan), file_bytes=plan.stat().st_size)
    sidecar = device.sidecar_path(plan)
    temporary = sidecar.with_suffix(".new")
    temporary.write_text(json.dumps(here, indent=1) + "\n", encoding="utf-8")
    os.replace(str(temporary), str(sidecar))  # noqa: PTH105
    return here


if __name__ == "__main__":
    sys.exit(main())
