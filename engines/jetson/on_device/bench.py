#!/usr/bin/env python3
"""Time this bundle's int8 engine against float16 on the Jetson, and measure their energy: `python3 bench.py`.

One denoising step is one call of an engine. The two are loaded together and called in turns; then power is measured
while each runs alone, because the monitor itself costs time. Exit codes: 0 done, 1 an engine cannot be executed, 2
usage or a damaged bundle, 3 no TensorRT, no GPU, or a plan that is absent or was built for something else.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import cuda_runtime
import device
import engine
import measures
import power
import report

__all__ = ["main"]

HERE = Path(__file__).resolve().parent
FAILED, USAGE, UNUSABLE = 1, 2, 3


def main(arguments: list[str] | None = None) -> int:
    """The program."""
    options = _parse(arguments)
    try:
        bundle = device.read_description(HERE)
    except ValueError as error:
        print(error, file=sys.stderr)
        return USAGE
    plans = {"int8": (options.plan, bundle)}
    if not options.no_baseline:
        plans["fp16"] = (HERE / "baseline.plan", bundle["baseline"])
    try:
        import tensorrt

        cuda = cuda_runtime.CudaRuntime()
        version, gpu = tensorrt.__version__, cuda.compute_capability()
    except (ImportError, cuda_runtime.CudaError) as error:
        print(f"this machine cannot run the engine: {error}", file=sys.stderr)
        return UNUSABLE
    here = {name: device.identity(graph, version, gpu) for name, (_, graph) in plans.items()}
    wrong = [reason for name, (plan, _) in plans.items() for reason in device.differences(plan, here[name])]
    if wrong:
        print("\n".join([*wrong, "build it here: python3 build.py (--no-baseline: int8 alone)"]), file=sys.stderr)
        return UNUSABLE
    try:
        steps = {name: engine.Step(tensorrt, cuda, plan, options.batch, bundle) for name, (plan, _) in plans.items()}
        plain = {} if options.no_graphs else {name: why for name, step in steps.items() if (why := step.record())}
        timings = measures.latencies(steps, cuda, options.warmup, options.rounds)
        energies, said = _energies(steps, cuda, options.interval, options.seconds)
    except (cuda_runtime.CudaError, engine.EngineError) as error:
        print(error, file=sys.stderr)
        return FAILED
    found = {name: it[0].name for name, it in plans.items()}
    launches = {name: "kernel by kernel" if options.no_graphs or name in plain else "CUDA graph" for name in steps}
    result = _result(options.batch, here["int8"]["versions"], found, launches, timings, energies, said)
    result["warnings"] += [f"{name} is no CUDA graph: {why}" for name, why in plain.items()]
    _write(options.json, result)
    print("\n".join(report.lines(result)))
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--plan", type=Path, default=HERE / "denoiser.plan", help="default: denoiser.plan")
    parser.add_argument("--no-baseline", action="store_true", help="time int8 alone: less memory, no comparison")
    parser.add_argument("--batch", type=_positive, default=1, metavar="N", help="samples per step (default: 1)")
    parser.add_argument("--no-graphs", action="store_true", help="launch kernel by kernel, not as one CUDA graph")
    parser.add_argument("--warmup", type=_positive, default=50, metavar="N", help="rounds before the clock starts")
    parser.add_argument("--rounds", type=_positive, default=500, metavar="N", help="timed rounds of a step each")
    parser.add_argument("--seconds", type=float, default=10.0, metavar="S", help="of steps under the power monitor")
    parser.add_argument("--interval", type=_positive, default=100, metavar="MS", help="of the power samples")
    parser.add_argument("--json", type=Path, default=HERE / "bench.json", help="default: bench.json")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("1 or more")
    return value


def _energies(steps: dict[str, Any], cuda: Any, interval_ms: int, seconds: float) -> tuple[dict[str, Any], str]:
    """Energy per step of each engine, and by which monitor; none, and why not, where no monitor knows the module."""
    monitor, said = power.find_monitor(interval_ms)
    if monitor is None:
        return {}, said
    try:
        return measures.energies(steps, cuda, monitor, interval_ms, seconds), said
    finally:
        monitor.stop()


def _result(
    batch: int,
    versions: dict[str, str],
    plans: dict[str, str],
    launches: dict[str, str],
    timings: Any,
    energies: dict[str, Any],
    said: str,
) -> dict[str, Any]:
    """What `bench.json` holds; `said` is the name of the monitor, or why there was none."""
    result: dict[str, Any] = {"schema": 3, "batch": batch, "device": versions, "power_mode": device.power_mode()}
    clock_mhz = device.gpu_clock_range()
    result["gpu_clock_mhz"] = clock_mhz
    result["engines"] = {
        name: {
            "plan": plan,
            "launch": launches[name],
            "latency_ms": {clock: measures.summary(values) for clock, values in timings[name].items()},
            "energy": energies.get(name),
        }
        for name, plan in plans.items()
    }
    result["fp16_over_int8"] = report.compare(timings, energies)
    rails = next((energy["rails"] for energy in energies.values() if energy), None)
    result["power"] = {"monitor": said, "rails": rails} if rails else None
    notes = [] if rails else [said if not energies else f"energy was not measured: {said} told no power of the module"]
    result["warnings"] = report.warnings(result, clock_mhz, notes)
    return result


def _write(target: Path, result: dict[str, Any]) -> None:
    temporary = target.with_suffix(".new")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    os.replace(str(temporary), str(target))  # noqa: PTH105


if __name__ == "__main__":
    sys.exit(main())
