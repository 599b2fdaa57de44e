"""The readers of files that may come from anyone: by name, valid files to begin with and the function that reads one.

A reader may return, or raise `PtqExportError`; anything else is a fault. To add one, add a row to `READERS`: its seeds
are made once, in a folder of their own, and `read` gets a folder with the seeds, one of them changed.
"""

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
import onnx_ir as ir
import synthetic_run  # from the tests of the report
import torch
from diffusers import DDPMScheduler, UNet2DModel
from exported_net import inputs_of
from safetensors.torch import save_file
from tiny_pipelines import saved  # from the tests of checkpoints

from ptq_export.artifacts import prompt_beside, sha256_file, write_json
from ptq_export.calibrators.pairs import load_pairs
from ptq_export.checkpoints import load_checkpoint
from ptq_export.denoiser import Denoiser, NoiseSchedule, Source
from ptq_export.engines.base import EngineOptions
from ptq_export.engines.build_cache import current, read_identity, write_identity
from ptq_export.engines.prompt import open_prompt
from ptq_export.engines.signature import read_signature
from ptq_export.graph import model_file
from ptq_export.graph.model_file import load_model
from ptq_export.graph.prompt_file import load_whole, save_split
from ptq_export.interface import INPUTS, PROMPT, Input, Prompt, inputs_to_json, prompt_to_json
from ptq_export.options import Options
from ptq_export.packaging.sums import SUMS, check_sums, write_sums
from ptq_export.packaging.triton.drawing import Drawer
from ptq_export.packaging.triton.served import Models
from ptq_export.pipeline.commands.after import compare, inspect
from ptq_export.pipeline.commands.reopened import finished_manifest, read_schedule
from ptq_export.report import build_report
from ptq_export.run_folder import RunFolder
from ptq_export.schemas import MANIFEST, read_options

__all__ = ["READERS", "Reader"]

TESTS = Path(__file__).parents[1]
SHAPE = (1, 4, 4)
PIPELINE = [
    "model_index.json",
    *(f"{part}/config.json" for part in ("unet", "vae", "text_encoder")),
    *(f"tokenizer/{name}.json" for name in ("tokenizer", "tokenizer_config")),
]


@dataclass(frozen=True)
class Reader:
    """`make(folder)` writes valid files; those of `changed` are mutated, one at a time; `read(folder)` reads them."""

    make: Callable[[Path], None]
    changed: Sequence[str]
    read: Callable[[Path], object]


def _copy(*names: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        for name in names:
            shutil.copyfile(TESTS / "data" / name, folder / name)

    return make


def _report_files(folder: Path) -> None:
    synthetic_run.write_run(folder)
    layers = [{"name": f"unet.conv_{end}", "sqnr_db": 30.0, "share": 0.5} for end in ("in", "out")]
    ranked = {"schema": 2, "pairs_per_timestep": 8, "timesteps": [1, 500], "all_db": 20.5, "layers": layers}
    write_json(folder / "sensitivity.json", ranked)
    weights = {"count": 8, "as_int8": 8, "as_float16": 0, "bytes_per_weight": 1.0}
    plan = {"version": "1.7.1.116", "size_bytes": 9, "warnings": ["one"], "weights": weights}
    finding = {"rule": "r", "node": "n", "seen": "s", "reason": "why", "severity": "error"}
    checked = {"schema": 2, "rules": ["r"], "findings": [finding], "own": "", "plans": {"tensorrt_rtx": plan}}
    write_json(folder / "tensorrt.json", checked | {"refusals": {"tensorrt": "no"}})
    race = {"before_ms": 2.0, "after_ms": 1.0, "speedup": 2.0, "low": 1.9, "high": 2.1}
    trial = {"what": "linears", "layers": ["a"], "sqnr_db": 40.0, "kept": True, "why": "faster"} | race
    left = {"what": "a", "layers": ["a"], "expected_ms": 0.1}
    chosen = {"split_shortcut": False, "float_layers": {"a": "kept float"}}
    quality = {"untuned": 40.0, "tuned": 39.9, "loss_allowed": 0.1}
    tuned = {"schema": 2, "budget_s": 9.0, "seconds": 8.0, "batch": 1, "chosen": chosen, "total": race}
    tuned |= {"sqnr_db": quality, "trials": [trial], "not_reached": [left], "reused": False}
    write_json(folder / "tuning.json", tuned)
    reading = {"readers": ["a", "b"], "source": "n", "first": 0, "alpha": 0.5, "by_token": True, "share": 0.1}
    reading |= {"sqnr_db": {"tensor": 30.0, "balanced": 33.0, "token": 40.0}}
    rule = {"alphas": [0.5], "balanced_at_most": 0.9, "token_at_most": 0.25, "token_pays_from": 0.02}
    write_json(folder / "linears.json", {"schema": 2, "rule": rule, "readings": [reading]})
    gpu = {"median_ms": 1.0}
    calls = {"compute": gpu, "enqueue": gpu, "warnings": ["host-bound"]}
    timing = {"graph": calls, "kernels": calls, "with_transfers": gpu, "energy_mj": 2.0}
    latency = synthetic_run.latency()
    latency["steps"] = [step | {"candidates": _shortened(step["candidates"])} for step in latency["steps"]]
    write_json(folder / "latency.json", latency | {"gpu": [{"batch": 1, "candidates": {"ort-int8": timing}}]})


def _shortened(candidates: dict[str, Any]) -> dict[str, Any]:
    return {name: timing | {"raw_ms": timing["raw_ms"][:5]} for name, timing in candidates.items()}


def _read_manifest(folder: Path) -> object:
    manifest = finished_manifest(folder)
    read_options(manifest, folder / MANIFEST)
    inspect(folder)
    compare(folder, folder)
    return read_schedule(manifest | {"denoiser": manifest["denoiser"] | {"schedule": {}}}, folder)


def _manifest(folder: Path) -> None:
    value = synthetic_run.manifest()
    options = asdict(Options("embedded:digits", out=Path("run"), calibration_data=Path("x")).resolved())
    value["options"] = {key: str(it) if isinstance(it, Path) else it for key, it in options.items()}
    value["denoiser"]["schedule"] = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4}
    write_json(folder / MANIFEST, value)


def _read_schedule(folder: Path) -> object:
    return read_schedule(finished_manifest(folder), folder)


def _run_folder(folder: Path) -> None:
    with RunFolder.create(folder, _REQUEST) as run:
        run.save_json("kept.json", {"schema": 2, "wanted_db": 40.0, "layers": ["a", "b"]})
        run.save_tensors("pairs.safetensors", {"sample": torch.zeros(2, *SHAPE)})


_REQUEST = {"schema": 2, "options": {"seed": 0, "out": None}, "inputs": {"data": "00"}, "versions": {"a": "1"}}


def _reopen_folder(folder: Path) -> object:
    with RunFolder.open(folder) as run:
        run.keep("pairs.safetensors")
        return [run.load_json("kept.json"), run.load_tensors("pairs.safetensors"), run.names]


def _package(folder: Path) -> None:
    (folder / "a.txt").write_text("a")
    (folder / "b.txt").write_text("b")
    write_sums(folder)


def _sampler(folder: Path) -> None:
    _manifest(folder)
    value = json.loads((folder / MANIFEST).read_text())
    prompt = prompt_to_json(Prompt((Input("prompt_k", "float32", (2,)),), ("text",), "00"))
    write_json(folder / MANIFEST, value | {"package": {"format": "triton", "prompt": prompt, "prompt_reads": ["text"]}})


def _unasked(_: object) -> NoReturn:
    raise AssertionError("a reader asks no model")


def _sidecar(folder: Path) -> None:
    (folder / "a.int8.plan").write_bytes(b"plan")
    write_identity(folder / "a.int8.plan", current("trt", {"tensorrt": "10"}, "ab" * 32, {"batch": [1, 4, 64]}))


def _pairs(name: str) -> Callable[[Path], None]:
    def make(folder: Path) -> None:
        arrays = {"sample": torch.randn(2, *SHAPE), "timestep": torch.tensor([0, 999])}
        if name.endswith("npz"):
            np.savez_compressed(folder / name, **{key: value.numpy() for key, value in arrays.items()})
        else:
            save_file(arrays, folder / name)

    return make


def _load_pairs(name: str) -> Callable[[Path], object]:
    denoiser = Denoiser(torch.nn.Identity(), NoiseSchedule(), SHAPE, Source("tiny", "", ""))
    return lambda folder: load_pairs(folder / name, denoiser)


def _onnx(folder: Path) -> None:
    """A denoiser with quantised weights, a subgraph and metadata."""
    node, info = onnx.helper.make_node, onnx.helper.make_tensor_value_info
    ends = [info(name, onnx.TensorProto.FLOAT, ["N", 1, 4, 4]) for name in ("sample", "eps")]
    once = info("once", onnx.TensorProto.FLOAT, None)
    branch = onnx.helper.make_graph([node("Identity", ["w"], ["once"])], "branch", [], [once])
    nodes = [
        node("DequantizeLinear", ["codes", "scale"], ["weight"]),
        node("If", ["yes"], ["w"], then_branch=branch, else_branch=branch),
        node("Conv", ["sample", "weight"], ["eps"], name="conv", kernel_shape=[1, 1]),
    ]
    values = {"codes": np.ones((1, 1, 1, 1), np.int8), "scale": np.float32(0.5), "yes": np.array(True)}
    constants = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    time = info("timestep", onnx.TensorProto.INT64, ["N"])
    graph = onnx.helper.make_graph(nodes, "denoiser", [ends[0], time], [ends[1]], constants)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    inputs = json.dumps(inputs_to_json(inputs_of(SHAPE)))
    onnx.helper.set_model_props(model, {"num_train_timesteps": "1000", "inputs": inputs})
    (folder / "denoiser.onnx").write_bytes(model.SerializeToString())


def _large_onnx(folder: Path) -> None:
    """The same, its weights in a file of their own."""
    _onnx(folder)
    model = load_model(folder / "denoiser.onnx")
    model.graph.initializers["codes"].const_value = ir.tensor(np.ones((1, 300, 1, 1), np.int8), name="codes")
    before, model_file.SELF_CONTAINED_BYTES = model_file.SELF_CONTAINED_BYTES, 300
    try:
        model_file.save_model(model, folder / "denoiser.onnx")
    finally:
        model_file.SELF_CONTAINED_BYTES = before


def _read_large_onnx(folder: Path) -> object:
    tensors = [value.const_value for value in load_model(folder / "denoiser.onnx").graph.initializers.values()]
    weights = [tensor.tobytes() for tensor in tensors if isinstance(tensor, ir.ExternalTensor)]
    return weights, _read_onnx(folder)


def _read_onnx(folder: Path) -> object:
    inspect(folder / "denoiser.onnx")
    load_model(folder / "denoiser.onnx")
    return read_signature(folder / "denoiser.onnx")


def _split_onnx(folder: Path) -> None:
    """A denoiser in two graphs."""
    text = """<ir_version: 10, opset_import: ["": 18]>
        net (float[batch,2,4] sample, int64[batch] timestep, float[batch,tokens,3] text) => (float[batch,2,4] eps)
        <float[3,4] w = {1,0,2,1, 0,1,-1,2, 3,1,0,-1}>
        { k = MatMul(text, w) t = Transpose <perm = [0, 2, 1]> (k) s = MatMul(sample, t) eps = MatMul(s, k) }"""
    model = ir.from_proto(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))
    inputs = inputs_of((2, 4), Input("text", "float32", ("tokens", 3)))
    model.metadata_props[INPUTS] = json.dumps(inputs_to_json(inputs))
    for node in model.graph:
        node.name = f"node_{node.outputs[0].name}"
    save_split(model, folder / "denoiser.onnx")


def _read_split_onnx(folder: Path) -> object:
    """The digest is stated anew, as whoever changes a prompt graph would: else it alone would stop every change."""
    step = folder / "denoiser.onnx"
    _restate(step)
    load_whole(step)
    signature = read_signature(step)
    return open_prompt(step, signature, EngineOptions(threads=1))


def _restate(step: Path) -> None:
    try:
        model = onnx.load(step)
        stated = {item.key: item.value for item in model.metadata_props}
        prompt = json.loads(stated[PROMPT]) | {"sha256": sha256_file(prompt_beside(step))}
        onnx.helper.set_model_props(model, stated | {PROMPT: json.dumps(prompt)})
    except Exception:  # the step graph is the one that was changed
        return
    step.write_bytes(model.SerializeToString())


def _diffusers(folder: Path) -> None:
    _tiny_unet().save_pretrained(folder)
    DDPMScheduler().save_config(folder)


def _pipeline(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        shutil.copytree(saved("sd1", Path(place)), folder, dirs_exist_ok=True)


def _tiny_unet() -> UNet2DModel:
    blocks = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"], "add_attention": False}
    return UNet2DModel(4, 1, 1, block_out_channels=(4,), layers_per_block=1, norm_num_groups=2, **blocks)


def _safetensors(folder: Path) -> None:
    """One that describes itself in its header."""
    net = _tiny_unet()
    header = {"unet": dict(net.config), "scheduler": dict(DDPMScheduler().config), "training": {"ema": True}}
    metadata = {"format": "ptq-export/unet2d"} | {key: json.dumps(value) for key, value in header.items()}
    save_file(net.state_dict(), folder / "net.safetensors", metadata=metadata)


def _check(name: str) -> Callable[[Path], object]:
    return lambda folder: load_checkpoint(str(folder / name))


PARTS = ["calibration", "fidelity", "latency", "layers", "linears", "manifest", "parity", "sensitivity"]
PARTS += ["tensorrt", "tuning"]
READERS = {
    "checkpoint": Reader(_copy("ddim_tiny.pt"), ["ddim_tiny.pt"], _check("ddim_tiny.pt")),
    "safetensors": Reader(_safetensors, ["net.safetensors"], _check("net.safetensors")),
    "net-config": Reader(_diffusers, ["config.json"], _check("")),
    "pipeline": Reader(_pipeline, PIPELINE, _check("")),
    "scheduler-config": Reader(_diffusers, ["scheduler_config.json"], _check("")),
    "manifest": Reader(_manifest, [MANIFEST], _read_manifest),
    "schedule": Reader(_manifest, [MANIFEST], _read_schedule),
    "report": Reader(_report_files, [*(f"{name}.json" for name in PARTS), "samples.safetensors"], build_report),
    "ledger": Reader(_run_folder, ["ledger.json", "pairs.safetensors"], _reopen_folder),
    "request": Reader(_run_folder, ["request.json"], _reopen_folder),
    "sidecar": Reader(_sidecar, ["a.identity.json"], lambda folder: read_identity(folder / "a.int8.plan")),
    "sums": Reader(_package, [SUMS, "a.txt"], check_sums),
    "sampler": Reader(_sampler, [MANIFEST], lambda folder: Drawer(folder, Models(*[_unasked] * 4)).wish({})),
    "npz": Reader(_pairs("pairs.npz"), ["pairs.npz"], _load_pairs("pairs.npz")),
    "pairs": Reader(_pairs("pairs.safetensors"), ["pairs.safetensors"], _load_pairs("pairs.safetensors")),
    "onnx": Reader(_onnx, ["denoiser.onnx"], _read_onnx),
    "split-onnx": Reader(_split_onnx, ["denoiser.onnx", "denoiser.prompt.onnx"], _read_split_onnx),
    "large-onnx": Reader(_large_onnx, ["denoiser.onnx", "denoiser.onnx.data"], _read_large_onnx),
}
