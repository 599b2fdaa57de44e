"""The main job on a tiny denoiser: what is in the run folder afterwards, and what it proves."""

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from safetensors.torch import load_file

from ptq_export.artifacts import sha256_file
from ptq_export.benchmarks.fidelity import sqnr_db
from ptq_export.calibrators.quantise import quantised_modules, restore
from ptq_export.engines import load_engine
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.graph.audit import check_codes
from ptq_export.graph.model_file import load_model
from ptq_export.options import Options
from ptq_export.pipeline import estimate, run
from ptq_export.sampling import initial_noise

RESULTS = {
    "calibration.json",
    "denoiser.fp32-unfolded.onnx",
    "denoiser.fp32.onnx",
    "denoiser.ort-int8.onnx",
    "fidelity.json",
    "latency.json",
    "latency.png",
    "layers.json",
    "pairs.safetensors",
    "parity.json",
    "quantised.safetensors",
    "samples.safetensors",
}
TIMES = torch.tensor([0, 300, 600, 999])


def read(folder: Path, name: str) -> Any:
    return json.loads((folder / f"{name}.json").read_text())


def simulation(folder: Path) -> torch.nn.Module:
    """The network with the integer layers of the run."""
    module = tiny.denoiser().module.eval().requires_grad_(False)
    restore(module, load_file(folder / "quantised.safetensors"))
    return module


def test_every_file_is_there_and_no_other(finished: Path) -> None:
    found = {path.name for path in finished.iterdir()}
    assert found >= RESULTS | {"manifest.json", "report.html", "engine", "units"}
    assert not [name for name in found if name.startswith(".")]


def test_manifest_holds_size_and_sha256_of_every_result(finished: Path) -> None:
    artefacts = read(finished, "manifest")["artefacts"]
    assert set(artefacts) >= RESULTS
    for name, entry in artefacts.items():
        assert entry == {"sha256": sha256_file(finished / name), "size_bytes": (finished / name).stat().st_size}, name


def test_manifest_says_what_was_made_from_what_and_how(finished: Path) -> None:
    manifest = read(finished, "manifest")
    assert manifest["schema"] == 2
    assert manifest["denoiser"]["sample_shape"] == [1, 8, 8]
    assert manifest["denoiser"]["parameters"] == sum(p.numel() for p in tiny.denoiser().module.parameters())
    assert len(manifest["denoiser"]["sha256"]) == 64
    assert (manifest["options"]["samples"], manifest["options"]["iterations"]) == (4, 2)
    assert {"torch", "onnxruntime", "ptq-export"} <= set(manifest["versions"])
    assert all(seconds >= 0 for seconds in manifest["timings_s"].values())


def test_command_in_the_manifest_asks_for_the_same_run(finished: Path) -> None:
    program, *words = shlex.split(read(finished, "manifest")["command"])
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert program == "ptq-export"
    assert given["--ckpt"] == tiny.SPEC
    assert (given["--samples"], given["--held-out"], given["--threads"]) == ("4", "2", "1")
    assert "--metric" not in given


def test_verdict_is_that_every_proof_holds(finished: Path) -> None:
    verdict = read(finished, "manifest")["verdict"]
    assert (verdict["ok"], verdict["failures"]) == (True, [])
    assert verdict["speedup"] > 0
    assert verdict["psnr_db"] > 5


def test_every_layer_meant_to_be_int8_is_int8_in_the_engine(finished: Path) -> None:
    layers = read(finished, "layers")["layers"]
    convs = {layer["name"]: layer for layer in layers}
    assert [layer["name"] for layer in layers if layer["precision"] != layer["intended"]] == []
    assert sum(layer["precision"] == "int8" for layer in layers) == len(quantised_modules(simulation(finished)))
    assert convs["unet.conv_in"]["reason"].startswith("first layer")
    assert convs["unet.conv_out"]["reason"].startswith("last layer")


def test_parity_names_every_layer_and_block_and_every_time_step(finished: Path) -> None:
    parity = read(finished, "parity")
    names = {row["block"] for row in parity["local"] if row["kind"] == "layer"}
    assert names == set(quantised_modules(simulation(finished)))
    assert "unet.mid_block.attentions.0" in {row["block"] for row in parity["local"] if row["kind"] == "block"}
    assert len(parity["global"]) == 10
    assert all(row["ok"] for row in parity["local"] + parity["global"])


def test_codes_in_the_onnx_are_the_stored_ones(finished: Path) -> None:
    check_codes(load_model(finished / "denoiser.ort-int8.onnx"), quantised_modules(simulation(finished)))


def test_loaded_engine_computes_what_was_simulated(finished: Path) -> None:
    sample = initial_noise((4, 1, 8, 8), 3)
    with torch.no_grad():
        expected = simulation(finished)(sample, TIMES)
    assert sqnr_db(expected, load_engine(finished)(sample, TIMES)) > 30


def test_baseline_computes_the_checkpoint_s_eps(finished: Path) -> None:
    sample = initial_noise((4, 1, 8, 8), 3)
    eps = load_engine(finished, "ort-fp32")(sample, TIMES)
    torch.testing.assert_close(eps, tiny.denoiser()(sample, TIMES), rtol=0, atol=1e-5)


def test_latency_and_fidelity_cover_every_candidate(finished: Path) -> None:
    latency, fidelity = read(finished, "latency"), read(finished, "fidelity")
    assert [step["batch"] for step in latency["steps"]] == [1, 16]
    assert set(latency["steps"][0]["candidates"]) == {"ort-int8", "ort-fp32", "ort-fp32-unfolded"}
    assert {loop["sampler"] for loop in latency["loops"]} == {"ddim", "dpm-solver++"}
    assert set(fidelity["curves"]) == set(fidelity["psnr"]["values"]) == {"ort-int8", "simulation", "exact_weights"}
    assert fidelity["pairs_per_timestep"] == 2


def test_no_file_names_the_machine_s_folders(finished: Path) -> None:
    onnx = (finished / "denoiser.ort-int8.onnx").read_bytes()
    assert str(Path.home()).encode() + b"/" not in onnx
    assert str(Path(tiny.__file__).parents[2]).encode() not in onnx


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"policy": "ndtd"}, "unknown time-step policy 'ndtd'\ndid you mean ndtc"),
        ({"metric": "l2.5"}, "unknown range metric 'l2.5'\ndid you mean l2.4"),
        ({"target": "ort-int9"}, "unknown target 'ort-int9'\ndid you mean ort-int8"),
        ({"target": "ort-fp32"}, "nothing to quantise"),
        ({"calibration_data": Path("absent.npz")}, "absent.npz"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else None,
)
def test_option_that_cannot_be_used_leaves_no_folder(changed: dict[str, Any], message: str, tmp_path: Path) -> None:
    options = Options(**{**vars(tiny.options(tmp_path / "run")), **changed})
    with pytest.raises(InputError, match=message):
        run(options)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_absent_is_refused_before_any_work(tmp_path: Path) -> None:
    options = replace(tiny.options(tmp_path / "run"), device="cuda")
    for work in (run, estimate):
        with pytest.raises(EnvironmentMissing, match="--device cuda"):
            work(options)
    assert not (tmp_path / "run").exists()
