"""The bundle for a Jetson: a folder that builds and times the engine on the device with JetPack alone.

Its description, `bundle.json`, is written last; what the device adds (plan, sidecar, timings) stays beside it.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ptq_export.artifacts import atomic_path, sha256_file
from ptq_export.benchmarks.environment import package_versions
from ptq_export.engines import build_plan
from ptq_export.engines.trt_plan import batch_range
from ptq_export.errors import EnvironmentMissing, GateFailed, InputError
from ptq_export.graph.requantise_weights import RequantiseWeights
from ptq_export.graph.single_file import save_model
from ptq_export.jetpack import JetPack
from ptq_export.pipeline.stages import Job

__all__ = ["BUNDLE", "build_bundle", "write_bundle"]

SCHEMA = 1
BUNDLE = "jetson"
DESCRIPTION, GRAPH, SCRIPT = "bundle.json", "denoiser.onnx", "build.py"
BUILDER = Path(str(build_plan.__file__))
DEVICE_FILES = BUILDER.parent / "jetson"


def write_bundle(job: Job, jetpack: JetPack, graph: ir.Model) -> None:
    """Write what is not there yet of the run's folder `jetson/`; `graph` is the one that was proved.

    Raises:
        GateFailed: the graph for the device is not valid ONNX, or its weights would get other codes.
    """
    folder, programs = job.folder, list(_programs())
    names = [GRAPH, *(path.name for path in programs), DESCRIPTION]
    if all(folder.has(f"{BUNDLE}/{name}") for name in names):
        return
    with job.stage("bundle for the device"):
        path = folder.path / BUNDLE
        _write_graph(job, jetpack, graph, path / GRAPH)
        for program in programs:
            with atomic_path(path / program.name) as temporary:
                shutil.copyfile(program, temporary)
        for name in names[:-1]:
            folder.keep(f"{BUNDLE}/{name}")
        folder.save_json(f"{BUNDLE}/{DESCRIPTION}", _describe(job, jetpack))


def build_bundle(bundle: Path, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Build the plan of a bundle, or of the run that holds it, on this Jetson, by the bundle's own `build.py`.

    Raises:
        InputError: there is no bundle, it is damaged, or an argument is none of `build.py`'s.
        EnvironmentMissing: this machine has no TensorRT, or no GPU.
        GateFailed: TensorRT refuses the graph: its own messages.
    """
    bundle = bundle / BUNDLE if (bundle / BUNDLE / DESCRIPTION).is_file() else bundle
    if not (bundle / DESCRIPTION).is_file():
        raise InputError(f"{bundle} holds no {DESCRIPTION}", "make one with --target jetson-int8")
    command = [sys.executable, SCRIPT, *arguments]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)
    said = "\n".join(line for line in done.stderr.splitlines() if line) or f"{SCRIPT} ended with {done.returncode}"
    if done.returncode == build_plan.UNUSABLE:
        raise EnvironmentMissing(said, f"copy {bundle} to the Jetson and run there: python3 {SCRIPT}")
    if done.returncode == InputError.exit_code:
        raise InputError(said)
    if done.returncode:
        raise GateFailed(said)
    identity: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return identity


def _programs() -> Iterator[Path]:
    """What the device runs or reads, as it lies in this package."""
    yield BUILDER
    yield from sorted(path for path in DEVICE_FILES.iterdir() if path.is_file())


def _write_graph(job: Job, jetpack: JetPack, graph: ir.Model, target: Path) -> None:
    if jetpack.carrier == "float16":
        with atomic_path(target) as temporary:
            shutil.copyfile(job.folder.path / job.target.onnx, temporary)
        return
    RequantiseWeights()(graph)
    try:
        onnx.checker.check_model(ir.to_proto(graph), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GateFailed(f"the graph for JetPack {jetpack.release} is not valid: {error}") from error
    save_model(graph, target)


def _describe(job: Job, jetpack: JetPack) -> dict[str, Any]:
    """What `build.py` and `bench.py` read."""
    denoiser = job.denoiser
    return {
        "schema": SCHEMA,
        "ptq_export": package_versions()["ptq-export"],
        "target": job.target.name,
        "jetpack": jetpack.release,
        "tensorrt": jetpack.tensorrt,
        "python": jetpack.python,
        "onnx": GRAPH,
        "onnx_sha256": sha256_file(job.folder.path / BUNDLE / GRAPH),
        "batch": list(batch_range(job.engine_options)),
        "sample_shape": list(denoiser.sample_shape),
        "num_train_timesteps": denoiser.schedule.num_train_timesteps,
        "classes": denoiser.classes,
    }
