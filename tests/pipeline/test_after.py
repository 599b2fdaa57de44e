"""What one does with a finished run: load, verify, time, sample, inspect, compare."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMPipeline
from PIL import Image
from watcher import Watcher

from ptq_export.artifacts import read_json, sha256_file, write_json
from ptq_export.command_options import Sampling
from ptq_export.denoiser import NoiseSchedule
from ptq_export.errors import GateFailed, InputError
from ptq_export.pipeline import bench, compare, inspect, load_engine, sample, verify
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler, visited_timesteps

ONNX = "denoiser.ort-int8.onnx"
Flip = Callable[[Path], None]


def test_whole_run_is_verified(finished: Path, watcher: Watcher) -> None:
    facts = verify(finished, watcher, tiny.SPEC)
    manifest = read_json(finished / "manifest.json")
    assert facts["files"] == len(manifest["artefacts"])
    assert facts["layers_with_equal_codes"] == manifest["verdict"]["int8_layers"]
    assert facts["parity"] == len(read_json(finished / "parity.json")["local"])


def test_damaged_onnx_is_refused_with_its_sha256(copied: Path, flip: Flip, watcher: Watcher) -> None:
    flip(copied / ONNX)
    found = sha256_file(copied / ONNX)
    with pytest.raises(GateFailed, match=f"{ONNX} is damaged: sha256 {found}"):
        verify(copied, watcher)
    with pytest.raises(InputError, match=f"{ONNX} is damaged: its sha256 is {found}"):
        load_engine(copied)


def test_absent_file_is_named(copied: Path, watcher: Watcher) -> None:
    (copied / "pairs.safetensors").unlink()
    with pytest.raises(GateFailed, match=r"pairs.safetensors is damaged: sha256 absent"):
        verify(copied, watcher)


def test_codes_that_are_not_the_calibrated_ones_are_found_behind_a_right_sha256(copied: Path, watcher: Watcher) -> None:
    content = (copied / ONNX).read_bytes()
    codes = next(iter(_weight_codes(copied)))
    at = content.index(codes)
    (copied / ONNX).write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    manifest = read_json(copied / "manifest.json")
    manifest["artefacts"][ONNX]["sha256"] = sha256_file(copied / ONNX)
    write_json(copied / "manifest.json", manifest)
    with pytest.raises(GateFailed, match="the weights in the graph are not the calibrated ones"):
        verify(copied, watcher, tiny.SPEC)


def _weight_codes(run: Path) -> list[bytes]:
    from safetensors.numpy import load_file

    state = load_file(run / "quantised.safetensors")
    return [value.tobytes() for name, value in state.items() if name.endswith("conv1.weight_codes")]


def test_damaged_cache_is_made_again(copied: Path, flip: Flip) -> None:
    cache = copied / "engine" / "denoiser.ort-int8.optimised.onnx"
    noise = initial_noise((2, 1, 8, 8), 0).numpy()
    before = load_engine(copied)(noise, 500)
    flip(cache)
    damaged = sha256_file(cache)
    np.testing.assert_array_equal(load_engine(copied)(noise, 500), before)
    assert sha256_file(cache) != damaged
    assert read_json(cache.with_name("denoiser.ort-int8.identity.json"))["file_sha256"] == sha256_file(cache)


def test_bench_renews_latency_in_manifest_and_report(copied: Path, watcher: Watcher) -> None:
    before = {name: sha256_file(copied / name) for name in ("latency.json", "report.html", ONNX)}
    latency = bench(copied, watcher)
    manifest = read_json(copied / "manifest.json")
    assert {"schema": 2} | latency == read_json(copied / "latency.json")
    assert manifest["artefacts"]["latency.json"]["sha256"] == sha256_file(copied / "latency.json")
    assert manifest["verdict"]["speedup"] == latency["steps"][0]["speedup"]["ort-fp32"]
    changed = {name for name, digest in before.items() if sha256_file(copied / name) != digest}
    assert changed == {"latency.json", "report.html"}


def test_samples_are_one_picture_and_the_same_every_time(finished: Path, tmp_path: Path, watcher: Watcher) -> None:
    facts = sample(finished, Sampling(tmp_path / "a.png", 4, 2, seed=7), watcher)
    sample(finished, Sampling(tmp_path / "b.png", 4, 2, seed=7), watcher)
    picture = Image.open(tmp_path / "a.png")
    assert (picture.format, picture.width) == ("PNG", picture.height)
    assert np.asarray(picture).std() > 0
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (facts["count"], facts["sampler"], facts["label"]) == (4, "ddim", None)


@pytest.mark.parametrize("sampler", ["euler", "pndm", "unipc"])
def test_other_samplers_draw_with_the_engine(finished: Path, tmp_path: Path, watcher: Watcher, sampler: str) -> None:
    facts = sample(finished, Sampling(tmp_path / "a.png", 2, 7, sampler), watcher)
    assert facts["timesteps"] == visited_timesteps(NoiseSchedule(), 7, sampler)
    assert watcher.messages == facts["notes"] != []
    sample(finished, Sampling(tmp_path / "b.png", 2, 7, "ddim"), watcher)
    assert (tmp_path / "a.png").read_bytes() != (tmp_path / "b.png").read_bytes()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"sampler": "dimm"}, "unknown sampler 'dimm'"),
        ({"steps": 600}, r"600 ddim steps of the 1000 training steps.*\nnearest that can be taken: 500, 950"),
        ({"label": 1}, "this engine has no classes"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_is_written(
    finished: Path, tmp_path: Path, watcher: Watcher, wrong: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        sample(finished, replace(Sampling(tmp_path / "a.png", 1, 2), **wrong), watcher)
    assert list(tmp_path.iterdir()) == []


def test_run_is_described(finished: Path) -> None:
    facts = inspect(finished)
    assert facts["target"] == "ort-int8"
    assert facts["verdict"]["ok"] is True


def test_onnx_is_described(finished: Path) -> None:
    facts = inspect(finished / ONNX)
    assert set(facts["inputs"]) == {"sample", "timestep"}
    assert facts["operators"]["QuantizeLinear"] > 0
    assert facts["weights"]["INT8"] > facts["weights"]["FLOAT"] * 0.1
    assert facts["metadata"]["num_train_timesteps"] == "1000"
    assert json.loads(facts["metadata"]["ptq_export.scheme"])["name"] == "ort-cpu"
    assert facts["sha256"] == sha256_file(finished / ONNX)


def test_checkpoint_is_described() -> None:
    facts = inspect(Path(__file__).parents[1] / "data" / "ddim_tiny.pt")
    assert "ddim" in facts["format"]
    assert len(facts["sha256"]) == 64


def test_runs_are_compared_by_options_and_figures(finished: Path, copied: Path) -> None:
    manifest = read_json(copied / "manifest.json")
    manifest["options"] |= {"seed": 9, "out": "elsewhere"}
    manifest["verdict"]["psnr_db"] = 40.0
    write_json(copied / "manifest.json", manifest)
    found = compare(finished, copied)
    assert (found["options"], found["same_checkpoint"]) == ({"seed": [0, 9]}, True)
    assert found["figures"]["psnr_db"][1] == 40.0
    assert compare(finished, finished)["options"] == {}


@pytest.mark.parametrize("call", [inspect, load_engine, lambda run: compare(run, run)])
def test_folder_that_is_no_finished_run_is_refused(call: Callable[[Path], Any], tmp_path: Path) -> None:
    with pytest.raises(InputError):
        call(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_engine_drops_into_a_diffusers_pipeline(finished: Path) -> None:
    engine, scheduler = load_engine(finished), make_scheduler(NoiseSchedule())
    pipeline = DDIMPipeline(unet=engine.as_unet(), scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    images = pipeline(2, torch.Generator().manual_seed(4), num_inference_steps=3, output_type="np").images
    expected = sample_loop(engine, make_scheduler(NoiseSchedule()), initial_noise((2, 1, 8, 8), 4), 3)
    shown = (expected / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()
    np.testing.assert_allclose(images, shown, atol=1e-5)
