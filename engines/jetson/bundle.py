"""The bundle for a Jetson: a folder that builds and times the engine on the device with JetPack alone.

Its description, `bundle.json`, is written last; what the device adds (plan, sidecar, timings) stays beside it.
"""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ptq_export.artifacts import atomic_path, data_beside, sha256_file
from ptq_export.engines.jetson.options import JetsonOptions
from ptq_export.engines.runtime import Order
from ptq_export.engines.trt import build_plan
from ptq_export.errors import EnvironmentMissing, GateFailed, InputError
from ptq_export.graph.model_file import load_model, save_model
from ptq_export.graph.passes.opset_17 import Opset17
from ptq_export.graph.passes.requantise_weights import RequantiseWeights
from ptq_export.graph.prompt_file import load_whole
from ptq_export.interface import inputs_to_json
from ptq_export.jetpack import JetPack
from ptq_export.targets import FP16, FP32

__all__ = ["BUNDLE", "build_bundle", "write_bundle"]

SCHEMA = 2
BUNDLE = "jetson"
DESCRIPTION, GRAPH, BASELINE, SCRIPT = "bundle.json", "denoiser.onnx", "baseline.onnx", "build.py"
BUILDER = Path(str(build_plan.__file__))
DEVICE_FILES = Path(__file__).parent / "on_device"


def write_bundle(order: Order, graph: ir.Model) -> None:
    """Write what is not there yet of the run's folder `jetson/`; `graph` is the one that was proved.

    Raises:
        GateFailed: the graph for the device is not valid ONNX, or its weights would get other codes.
    """
    folder, jetpack, programs = order.folder, _options(order).release, list(_programs())
    names = [GRAPH, BASELINE, *(path.name for path in programs), DESCRIPTION]
    if all(folder.has(f"{BUNDLE}/{name}") for name in names):
        return
    with order.stage("bundle for the device"):
        path = folder.path / BUNDLE
        _write_graph(order, jetpack, graph, path / GRAPH)
        _write_baseline(order, jetpack, path / BASELINE)
        for program in programs:
            _copy(program, path / program.name)
        for name in names[:-1]:
            folder.keep(f"{BUNDLE}/{name}")
        folder.save_json(f"{BUNDLE}/{DESCRIPTION}", _describe(order, jetpack))


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


def _options(order: Order) -> JetsonOptions:
    assert isinstance(order.options, JetsonOptions)
    return order.options


def _programs() -> Iterator[Path]:
    """What the device runs or reads, as it lies in this package."""
    yield BUILDER
    yield from sorted(path for path in DEVICE_FILES.iterdir() if path.is_file())


def _write_graph(order: Order, jetpack: JetPack, graph: ir.Model, target: Path) -> None:
    if jetpack.float_dtype == "float16":
        _copy_graph(order.source, target)
        return
    RequantiseWeights()(graph)
    _save_checked(graph, jetpack, target)


def _write_baseline(order: Order, jetpack: JetPack, target: Path) -> None:
    """The network without int8, which the device times in the same rounds: float16 in the graph, or, for a TensorRT
    before strong typing, a float32 graph that its builder turns into float16."""
    if jetpack.float_dtype == "float16":
        _copy_graph(order.folder.path / FP16, target)
        return
    _save_checked(Opset17()(load_whole(order.folder.path / FP32)).model, jetpack, target)


def _save_checked(graph: ir.Model, jetpack: JetPack, target: Path) -> None:
    save_model(graph, target)
    try:
        onnx.checker.check_model(target, full_check=True)  # by its path: in memory none above 2 GB can be checked
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        for file in (target, data_beside(target)):
            file.unlink(missing_ok=True)
        raise GateFailed(f"the graph for JetPack {jetpack.release} is not valid: {error}") from error


def _copy_graph(source: Path, target: Path) -> None:
    """A copy; one with a data file names it, so that is written anew."""
    if data_beside(source).is_file():
        save_model(load_model(source), target)
    else:
        _copy(source, target)


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _describe(order: Order, jetpack: JetPack) -> dict[str, Any]:
    """What `build.py` and `bench.py` read."""
    return {
        "schema": SCHEMA,
        "ptq_export": version("ptq-export"),
        "target": order.target,
        "jetpack": jetpack.release,
        "tensorrt": jetpack.tensorrt,
        "python": jetpack.python,
        **_graph_files(order.folder.path / BUNDLE / GRAPH),
        "baseline": {
            **_graph_files(order.folder.path / BUNDLE / BASELINE),
            "fp16": "graph" if jetpack.float_dtype == "float16" else "flag",
        },
        "batch": list(_options(order).batch_range),
        "inputs": inputs_to_json(order.inputs),
        "num_train_timesteps": order.num_train_timesteps,
    }


def _graph_files(path: Path) -> dict[str, str]:
    """A graph and its data file, if it has one, by name and digest."""
    data = data_beside(path)
    found = {"onnx": path.name, "onnx_sha256": sha256_file(path)}
    return found | ({"data": data.name, "data_sha256": sha256_file(data)} if data.is_file() else {})
