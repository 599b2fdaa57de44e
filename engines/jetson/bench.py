#!/usr/bin/env python3
"""Time this bundle's engine on the Jetson, and measure its energy: `python3 bench.py`.

One denoising step is one call of the engine. Latency and energy are measured one after the other, because `tegrastats`
itself costs time. Exit codes: 0 done, 1 the engine cannot be executed, 2 usage or a damaged bundle, 3 no TensorRT, no
GPU, or a plan that was built for something else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import cuda_runtime
import device
import engine
import measures
import tegrastats

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
FAILED, USAGE, UNUSABLE = 1, 2, 3
IDLE_S = 3.0
LEAST_SAMPLES = 10


def main(arguments: list[str] | None = None) -> int:
    """The program."""
    options = _parse(arguments)
    try:
        bundle = device.read_description(HERE)
    except ValueError as error:
        print(error, file=sys.stderr)
        return USAGE
    try:
        import tensorrt

        cuda = cuda_runtime.CudaRuntime()
        here = device.identity(bundle, tensorrt.__version__, cuda.compute_capability())
    except (ImportError, cuda_runtime.CudaError) as error:
        print(f"this machine cannot run the engine: {error}", file=sys.stderr)
        return UNUSABLE
    wrong = device.differences(options.plan, here)
    if wrong:
        print("\n".join([*wrong, "build it here: python3 build.py"]), file=sys.stderr)
        return UNUSABLE
    try:
        step = engine.Step(tensorrt, cuda, options.plan, options.batch, bundle)
        latency = measures.latency(step, cuda, options.warmup, options.steps)
        energy, note = _energy(step, cuda, options.interval, options.seconds)
    except (cuda_runtime.CudaError, engine.EngineError) as error:
        print(error, file=sys.stderr)
        return FAILED
    report = {"schema": 1, "plan": options.plan.name, "batch": options.batch, "device": here["versions"]}
    report.update(power_mode=device.power_mode(), gpu_clock_mhz=device.gpu_clock_range(), latency_ms=latency)
    report.update(energy=energy, warnings=measures.warnings(latency, report["gpu_clock_mhz"], note))
    _write(options.json, report)
    print("\n".join(measures.lines(report)))
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--plan", type=Path, default=HERE / "denoiser.plan", help="default: denoiser.plan")
    parser.add_argument("--batch", type=_positive, default=1, metavar="N", help="samples per step (default: 1)")
    parser.add_argument("--warmup", type=_positive, default=50, metavar="N", help="steps before the clock starts")
    parser.add_argument("--steps", type=_positive, default=500, metavar="N", help="timed steps")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="how long power is measured")
    parser.add_argument("--interval", type=_positive, default=100, metavar="MS", help="of the power samples")
    parser.add_argument("--json", type=Path, default=HERE / "bench.json", help="default: bench.json")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("1 or more")
    return value


def _energy(step: Any, cuda: Any, interval_ms: int, seconds: float) -> tuple[dict[str, Any] | None, str]:
    """Energy per step, or None and why not."""
    sampler = tegrastats.Sampler(interval_ms)
    try:
        sampler.start()
    except OSError:
        return None, "energy was not measured: there is no tegrastats"
    try:
        begin = time.monotonic()
        time.sleep(IDLE_S)
        idle = sampler.between(begin, time.monotonic())
        steps, begin, end = measures.keep_busy(step, cuda, seconds)
        busy = sampler.between(begin, end)
    finally:
        sampler.stop()
    found = measures.energy(idle, busy, steps, end - begin)
    if found is None:
        seen = ", ".join(sorted({name for rails in busy for name in rails})) or "none"
        return None, f"energy was not measured: no known set of rails among: {seen}"
    few = found["samples"] < LEAST_SAMPLES
    return found, f"only {found['samples']} power samples: raise --seconds" if few else ""


def _write(target: Path, report: dict[str, Any]) -> None:
    temporary = target.with_suffix(".new")
    temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    os.replace(str(temporary), str(target))  # noqa: PTH105


if __name__ == "__main__":
    sys.exit(main())
