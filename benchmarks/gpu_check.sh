#!/usr/bin/env bash
# All that needs an NVIDIA GPU, in one go: the device's own tests, calibration on CUDA, a bound on what int8 can gain,
# every engine that this machine allows, int8 timed against FP16 and FP32, whole runs of the embedded model with their
# proofs.
#
#   benchmarks/gpu_check.sh OUT_FOLDER [WHEEL_FOLDER]
#
# Run it in a clone. Nothing is installed but the wheels of WHEEL_FOLDER, from that folder alone. A failed step does not
# stop the others. OUT_FOLDER then holds environment.json, summary.json, summary.txt, one log per step, the calibration
# times, ceiling.json, the clocks before and after, and the run folders; what stands there from an earlier check is
# replaced. The summary is written after every step. First comes what needs torch and CUDA alone (device, events, graphs;
# calibration; ceiling.json, which is a bound and no engine), then the engines: on a machine without TensorRT these say
# "missing", and float baselines that can run there are timed alone. A step may take a share of the time that is left;
# what it does not need is the next one's.
#
# Exit codes: 0 every step that can run here has passed, 1 one has failed, 2 usage, 3 nothing that needs a GPU can run.
#
# PYTHON        the interpreter (default: that of .venv, else python3)
# LIMIT_S       seconds for everything (570)
# BATCH         samples per step of what is timed (8): a small net at batch 1 waits for launches, not for products
# ITERATIONS    learned rounding of the timed calibration, iterations per block (300; the paper's are 20000)
set -uo pipefail

OK=ok FAILED=failed MISSING=missing
readonly OK FAILED MISSING

usage() {
  echo "usage: $0 OUT_FOLDER [WHEEL_FOLDER]" >&2
  exit 2
}

(($# == 1 || $# == 2)) || usage
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
mkdir -p "$1/logs" || usage
out=$(cd "$1" && pwd)
wheels=
if (($# == 2)); then
  wheels=$(cd "$2" 2>/dev/null && pwd) || usage
fi
if [[ -z ${PYTHON:-} ]]; then
  PYTHON=python3
  [[ -x $root/.venv/bin/python ]] && PYTHON=$root/.venv/bin/python
fi
limit=${LIMIT_S:-570}
batch=${BATCH:-8}
iterations=${ITERATIONS:-300}
# In a clone, the folder ptq_export/ would hide the installed package.
export PYTHONSAFEPATH=1 PYTHON out batch
cd "$root" || exit 2
rm -rf "$out"/{summary,environment,calibration,ceiling,clocks,baseline}.* "$out"/logs/* "$out"/{run,time,baseline}-*
steps=$out/steps.tsv
: >"$steps"

ptq_export() { "$PYTHON" -m ptq_export "$@"; }

# record NAME STATUS SECONDS NOTE: one more row of the steps, and the summary of all so far.
record() {
  printf '%s\t%s\t%s\t%s\n' "$@" >>"$steps"
  printf '%-28s %-8s %5s s  %s\n' "$@"
  summarise >"$out/logs/summary.log" 2>&1
}

# step NAME PERCENT COMMAND...: run it in that share of the time left, its output in a log; record what came of it.
step() {
  local name=$1 percent=$2 log=$out/logs/$1.log started=$SECONDS code note=
  shift 2
  local left=$((limit - SECONDS))
  local seconds=$((left * percent / 100))
  if ((left < 5)); then
    record "$name" "$FAILED" 0 "no time left of LIMIT_S=$limit"
    return 1
  fi
  timeout --kill-after=10 "$seconds" bash -c '"$@"' step "$@" >"$log" 2>&1
  code=$?
  if ((code == 0)); then
    record "$name" "$OK" $((SECONDS - started)) ""
    return 0
  fi
  note="exit $code: $(grep -v '^ *$' "$log" | tail -n 1 | tr '\t' ' ' | cut -c1-160)"
  ((code == 124 || code == 137)) && note="no end after $seconds s"
  record "$name" "$FAILED" $((SECONDS - started)) "$note"
  return 1
}

# shellcheck disable=SC2317 # `step` calls it, in a shell of its own
environment() {
  nvidia-smi || echo "there is no nvidia-smi"
  "$PYTHON" - "$out/environment.json" <<'PYTHON'
import json
import platform
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

FIELDS = "name,compute_cap,driver_version,memory.total,power.limit,clocks.max.sm"
NAMES = ("cuda", "nvidia", "onnx", "ptq", "tensorrt", "torch", "diffusers", "numpy")
try:
    query = ["nvidia-smi", f"--query-gpu={FIELDS}", "--format=csv,noheader"]
    gpus = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()
except (OSError, subprocess.CalledProcessError):
    gpus = []
names = {found.metadata["Name"]: found.version for found in distributions()}
kept = {name: names[name] for name in sorted(names) if name and name.lower().startswith(NAMES)}
value = {"gpus": [dict(zip(FIELDS.split(","), line.split(", "))) for line in gpus], "python": platform.python_version()}
Path(sys.argv[1]).write_text(json.dumps(value | {"platform": platform.platform(), "packages": kept}, indent=1) + "\n")
print(json.dumps(kept, indent=1))
PYTHON
}

# clocks WHEN: clocks, temperature, power and the reasons why the clocks are held down.
# shellcheck disable=SC2317
clocks() {
  nvidia-smi -q -d CLOCK,PERFORMANCE,TEMPERATURE,POWER | tee "$out/clocks.$1.txt"
}

# device_tests: what the engines stand on: memory, streams, events, graphs, the driver's answers, energy.
# shellcheck disable=SC2317
device_tests() {
  "$PYTHON" -m pytest -m gpu tests/engines/test_device.py tests/engines/test_gpu.py tests/engines/test_jetson_programs.py \
    tests/benchmarks/test_energy.py tests/benchmarks/test_ceiling.py
}

# ceiling: every product of the network in int8 and float16, and its step in float16 by torch.
# shellcheck disable=SC2317
ceiling() {
  "$PYTHON" -m ptq_export.benchmarks.ceiling --batch "$batch" --json "$out/ceiling.json"
}

# calibrate CKPT SAMPLES STEPS ITERATIONS NAME: pairs and learned rounding on CUDA, timed, without any engine.
# shellcheck disable=SC2317
calibrate() {
  "$PYTHON" - "$@" "$out" <<'PYTHON'
import json
import sys
import time
from pathlib import Path

import torch

from ptq_export import Options
from ptq_export.calibrators.quantise import quantised_modules
from ptq_export.pipeline.api import quantise
from ptq_export.pipeline.stages import load_denoiser

ckpt, samples, steps, iterations, name, out = sys.argv[1:]
numbers = {"samples": int(samples), "steps": int(steps), "iterations": int(iterations)}
options = Options(ckpt, "trt-int8", device="cuda", **numbers)
denoiser = load_denoiser(options)
started = time.monotonic()
layers = quantised_modules(quantise(denoiser, options).module)
torch.cuda.synchronize()
found = {"ckpt": ckpt, **numbers, "seconds": round(time.monotonic() - started, 1), "int8_layers": len(layers)}
found |= {"peak_gpu_bytes": torch.cuda.max_memory_allocated(), "gpu": torch.cuda.get_device_name()}
Path(out, f"calibration.{name}.json").write_text(json.dumps(found, indent=1) + "\n")
print(json.dumps(found))
PYTHON
}

# time_engine TARGET DEVICE RUN BATCH: the engine of a full-size net and its baselines, timed before anything is proved.
# Rounding is to nearest: it changes no latency.
# shellcheck disable=SC2317
time_engine() {
  "$PYTHON" - "$@" <<'PYTHON'
import sys
from pathlib import Path

from ptq_export import Options
from ptq_export.pipeline.latency import measure_latency
from ptq_export.pipeline.run import prepare
from ptq_export.pipeline.graphs import export_graphs
from ptq_export.pipeline.progress import SILENT
from ptq_export.pipeline.stages import calibration_pairs, quantised

target, device, run, batch = sys.argv[1:]
brief = {"effort": "quick", "rounding": "nearest", "rounds": 10, "seconds": 1.0, "check": "none", "batch": batch}
job = prepare(Options("random:ddim-cifar10", target, Path(run), device=device, **brief).resolved(), SILENT)
job.runtime.check(job.order, export_graphs(job, quantised(job, calibration_pairs(job))))
for step in measure_latency(job)["steps"]:
    print(step["batch"], step["speedup"])
PYTHON
}

# time_baseline TARGET KIND RUN BATCH: a float16 engine of the same net alone, where its int8 target cannot run.
# shellcheck disable=SC2317
time_baseline() {
  "$PYTHON" - "$@" "$out" <<'PYTHON'
import json
import sys
from pathlib import Path

from ptq_export.benchmarks.timing.clock import Protocol
from ptq_export.benchmarks.timing.gpu_clock import measure_gpu_steps
from ptq_export.checkpoints import load_checkpoint
from ptq_export.engines.registry import build_engine
from ptq_export.engines.base import EngineOptions
from ptq_export.graph.passes.half_precision import HalfPrecision
from ptq_export.graph.model_file import save_model
from ptq_export.nn.probe import noise
from ptq_export.pipeline.graphs import export_graph, fold_time

target, kind, run, batch, out = sys.argv[1:]
denoiser = load_checkpoint("random:ddim-cifar10")
graph = export_graph(denoiser, denoiser.module)
fold_time(graph, denoiser)
source = Path(run) / "denoiser.fp16.onnx"
source.parent.mkdir(parents=True)
save_model(HalfPrecision()(graph).model, source)
engine = build_engine(kind, source, source.parent / "engine", EngineOptions(batch=int(batch)))
(step,) = measure_gpu_steps({target: engine}, [noise(denoiser, int(batch), 500, 0)], Protocol(5, 10, 1.0))
Path(out, f"baseline.{target}.json").write_text(json.dumps({"target": target, **step.to_json()}, indent=1) + "\n")
print(step.step.candidates[target].median_ms)
PYTHON
}

export -f ptq_export environment clocks device_tests ceiling calibrate time_engine time_baseline

# baselines: float16 targets that can run here though none of their int8 targets can: name, kind.
baselines() {
  ptq_export targets --json 2>/dev/null | "$PYTHON" -c '
import json, sys
from ptq_export.targets import TARGETS
found = json.load(sys.stdin)["targets"]
served = {name for target in TARGETS.values() if found[target.name]["available"] for name in target.baselines}
for name, target in TARGETS.items():
    if name.endswith("-fp16") and found[name]["available"] and name not in served:
        print(name, target.engine, sep="\t")'
}

# gpu_targets: the int8 targets of GPUs, one a line: name, yes or no, what is missing.
gpu_targets() {
  ptq_export targets --json 2>/dev/null | "$PYTHON" -c '
import json, sys
for name, entry in json.load(sys.stdin)["targets"].items():
    if name.endswith("-int8") and name not in ("ort-int8", "openvino-int8", "jetson-int8"):
        print(name, "yes" if entry["available"] else "no", entry["missing"], sep="\t")'
}

summarise() {
  "$PYTHON" - "$steps" "$out" <<'PYTHON'
import json
import sys
from pathlib import Path

steps, out = Path(sys.argv[1]), Path(sys.argv[2])
rows = [line.split("\t") for line in steps.read_text().splitlines()]
value = {"steps": [dict(zip(("name", "status", "seconds", "note"), row)) for row in rows]}
for file in sorted(out.glob("calibration.*.json")):
    value.setdefault("calibration", []).append(json.loads(file.read_text()))
for file in sorted(out.glob("*-*/latency.json")):
    entries = json.loads(file.read_text())["steps"]
    value.setdefault("latency", {})[file.parent.name] = [
        {"batch": step["batch"], "speedup": step["speedup"], "valid": step["valid"]}
        | {name: latency["median_ms"] for name, latency in step["candidates"].items()}
        for step in entries
    ]
(out / "summary.json").write_text(json.dumps(value, indent=1) + "\n")
for file in sorted(out.glob("baseline.*.json")):
    value.setdefault("baselines", []).append(json.loads(file.read_text()))
if (out / "ceiling.json").is_file():
    value["ceiling"] = json.loads((out / "ceiling.json").read_text())
for file in sorted(out.glob("clocks.*.txt")):
    # Of "SW Power Cap : Active" and the like; lines of numbers have other ends.
    rows_of = [line.split(":", 1) for line in file.read_text().splitlines() if line.rstrip().endswith(": Active")]
    value.setdefault("clocks_held_down_by", {})[file.stem.partition(".")[2]] = [row[0].strip() for row in rows_of]
lines = [f"{row[0]:<28} {row[1]:<8} {row[2]:>5} s  {row[3]}" for row in rows]
for run, entries in value.get("latency", {}).items():
    lines += [f"{run}, batch {entry['batch']}: {entry}" for entry in entries]
for entry in value.get("baselines", []):
    compute = entry["candidates"][entry["target"]]["graph"]["compute"]
    lines.append(f"{entry['target']} alone, batch {entry['batch']}: {compute['median_ms']} ms")
if "ceiling" in value:
    lines.append(f"ceiling, batch {value['ceiling']['batch']}: {value['ceiling']['bound']}, {value['ceiling']['what']}")
for when, reasons in value.get("clocks_held_down_by", {}).items():
    lines.append(f"clocks held down, {when}: {', '.join(reasons) or 'by nothing'}")
lines += [f"calibration of {entry['ckpt']}: {entry['seconds']} s" for entry in value.get("calibration", [])]
(out / "summary.txt").write_text("\n".join(lines) + "\n")
PYTHON
}

# finish CODE: the table of steps, then the end.
finish() {
  echo
  cat "$out/summary.txt" 2>/dev/null || cat "$steps"
  exit "$1"
}

if [[ -n $wheels ]]; then
  step wheels 30 "$PYTHON" -m pip --disable-pip-version-check install --no-index --find-links "$wheels" "$wheels"/*.whl
else
  record wheels "$OK" 0 "none given"
fi
step environment 10 environment

absent=
"$PYTHON" -c 'import ptq_export' 2>/dev/null || absent="ptq-export is not installed for $PYTHON"
gpus=$(nvidia-smi -L 2>/dev/null) && [[ $gpus == GPU* ]] || absent="no NVIDIA GPU: nvidia-smi lists none${absent:+; $absent}"
cuda=$absent
if [[ -z $absent ]]; then
  "$PYTHON" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null || cuda="torch finds no CUDA device"
fi
device=cpu
[[ -z $cuda ]] && device=cuda

pytest=$absent
"$PYTHON" -c 'import pytest' 2>/dev/null || pytest="pytest is not installed for $PYTHON${absent:+; $absent}"
# if_here NAME PERCENT MISSING COMMAND...: a step, where nothing is missing for it.
if_here() {
  local name=$1 percent=$2 missing=$3
  shift 3
  if [[ -n $missing ]]; then
    record "$name" "$MISSING" 0 "$missing"
  else
    step "$name" "$percent" "$@"
  fi
}

if_here clocks-before 5 "$absent" clocks before
if_here device 15 "$pytest" device_tests
if_here calibrate-digits 15 "$cuda" calibrate embedded:digits 128 20 80 digits
if_here calibrate-cifar10 25 "$cuda" calibrate random:ddim-cifar10 1024 250 "$iterations" cifar10
if_here ceiling 25 "$cuda" ceiling

targets=()
while IFS=$'\t' read -r target available missing; do
  if [[ -n $absent || $available == no ]]; then
    record "time-$target" "$MISSING" 0 "${missing:-$absent}"
    record "run-$target" "$MISSING" 0 "${missing:-$absent}"
  else
    targets+=("$target")
  fi
done < <(gpu_targets)

for target in "${targets[@]}"; do
  step "time-$target" 30 time_engine "$target" "$device" "$out/time-$target" "$batch"
done

if [[ -z $absent ]]; then
  while IFS=$'\t' read -r target kind; do
    step "baseline-$target" 30 time_baseline "$target" "$kind" "$out/baseline-$target" "$batch"
  done < <(baselines)
fi

if_here tests 45 "$pytest" "$PYTHON" -m pytest -m gpu tests

# Layer by layer, the proofs build some hundred small plans: of the embedded model, not of the full-size net.
brief=(--effort quick --rounding nearest --held-out 4 --device "$device" --rounds 10 --seconds 1 --batch "$batch")
for target in "${targets[@]}"; do
  step "run-$target" 60 ptq_export --ckpt embedded:digits --target "$target" "${brief[@]}" --out "$out/run-$target"
done
if_here clocks-after 50 "$absent" clocks after

if grep -q "$(printf '\t')$FAILED$(printf '\t')" "$steps"; then
  finish 1
fi
# A check in which neither calibration nor an engine ran has shown nothing.
if [[ -n $absent ]] || ! grep -qE "^(calibrate|run|time|baseline)-[^[:space:]]*[[:space:]]$OK" "$steps"; then
  finish 3
fi
finish 0
