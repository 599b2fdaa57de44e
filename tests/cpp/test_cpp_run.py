"""A run folder served from C++: the same prediction as in Python, the same words where it is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cpp_tools import Call, edited, refused
from PIL import Image

from ptq_export.command_options import Sampling
from ptq_export.denoiser import NoiseSchedule
from ptq_export.engines.base import Engine, EngineOptions
from ptq_export.engines.build_cache import read_identity, stale_reasons
from ptq_export.engines.load import load_engine
from ptq_export.engines.ort.operators import library
from ptq_export.pipeline import sample
from ptq_export.pipeline.progress import SILENT
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler

ONE = EngineOptions(threads=1)
OPTIMISED = Path("engine") / "denoiser.ort-int8.optimised.onnx"


def predicted(call: Call, run: Path, folder: Path, **feeds: Any) -> tuple[Any, str]:
    """What C++ predicts, and what it says of the file that it opens."""
    words = []
    for name, value in feeds.items():
        np.save(folder / f"{name}.npy", value)
        words.append(f"{name}={folder / name}.npy")
    done = call("probe", "run", run, "", folder / "prediction.npy", *words)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "prediction.npy"), done.stderr


def noise(engine: Engine, batch: int) -> Any:
    return initial_noise((batch, *engine.sample_shape), batch).numpy()


def test_the_prediction_is_pythons_at_any_batch_and_time(served_run: Path, call: Call, tmp_path: Path) -> None:
    engine = load_engine(served_run, options=ONE)
    for batch, time in ((1, 0), (3, 999), (2, 500)):
        x, t = noise(engine, batch), np.full(batch, time)
        found, said = predicted(call, served_run, tmp_path, sample=x, timestep=t)
        assert said == ""  # the graph that Python kept is opened, with the operators that it was built with
        np.testing.assert_allclose(found, engine(x, t), rtol=0, atol=1e-6)


def test_a_time_step_that_is_given_once_serves_the_batch(served_run: Path, call: Call, tmp_path: Path) -> None:
    engine = load_engine(served_run, options=ONE)
    x = noise(engine, 3)
    found, _ = predicted(call, served_run, tmp_path, sample=x, timestep=np.array([7]))
    np.testing.assert_allclose(found, engine(x, 7), rtol=0, atol=1e-6)


def test_without_a_kept_graph_the_onnx_file_is_served(copied_run: Path, call: Call, tmp_path: Path) -> None:
    engine = load_engine(copied_run, options=ONE)
    x = noise(engine, 2)
    wanted = engine(x, 300)
    shutil.rmtree(copied_run / "engine")
    found, said = predicted(call, copied_run, tmp_path, sample=x, timestep=np.array([300]))
    assert said == "optimising denoiser.ort-int8.onnx: denoiser.ort-int8.optimised.onnx is not there\n"
    assert 10 * np.log10(np.mean(wanted**2) / np.mean((found - wanted) ** 2)) > 40  # dB: other kernels round otherwise


def older(identity: dict[str, Any]) -> None:
    identity["versions"]["onnxruntime"] = "1.2.3"


def elsewhere(identity: dict[str, Any]) -> None:
    identity["isa"], identity["arch"], identity["options"] = ["asimd"], "aarch64", {"optimisation": "none", "batch": 4}


def damaged(identity: dict[str, Any]) -> None:
    identity["file_sha256"] = "0" * 64


def of_two_types(identity: dict[str, Any]) -> None:
    identity["isa"] = "avx2"


@pytest.mark.parametrize("change", [older, elsewhere, damaged])
def test_another_identity_is_told_in_pythons_words(
    change: Callable[[dict[str, Any]], None], copied_run: Path, call: Call, tmp_path: Path
) -> None:
    wanted, _ = read_identity(copied_run / OPTIMISED)
    edited(copied_run / "engine" / "denoiser.ort-int8.identity.json", change)
    x = np.zeros((1, 1, 8, 8), np.float32)
    _, said = predicted(call, copied_run, tmp_path, sample=x, timestep=np.array([0]))
    told = "; ".join(stale_reasons(copied_run / OPTIMISED, wanted))
    assert said == f"optimising denoiser.ort-int8.onnx: {told}\n"


def test_a_damaged_sidecar_is_no_reason_to_fail(copied_run: Path, call: Call, tmp_path: Path) -> None:
    edited(copied_run / "engine" / "denoiser.ort-int8.identity.json", of_two_types)
    x = np.zeros((1, 1, 8, 8), np.float32)
    _, said = predicted(call, copied_run, tmp_path, sample=x, timestep=np.array([0]))
    assert "isa is 'avx2', not a list" in said


def test_a_graph_that_this_account_did_not_build_is_not_opened(
    copied_run: Path, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another account"))
    x = np.zeros((1, 1, 8, 8), np.float32)
    _, said = predicted(call, copied_run, tmp_path, sample=x, timestep=np.array([0]))
    assert "operators none" in said or "was not built by this account on this machine" in said
    command = ("sample_images", copied_run, "-v", "--steps", 2, "--count", 1, "-o", tmp_path / "a.png")
    operators = () if library() is None else ("--operators", library())
    told = "denoiser.ort-int8.optimised.onnx was not built by this account on this machine"
    assert told in call(*command, *operators).stderr
    trusted = call(*command, *operators, "--trusted")
    assert (trusted.returncode, trusted.stderr) == (0, "")


def test_pictures_are_pythons(served_run: Path, call: Call, tmp_path: Path) -> None:
    """Of the same seed, as far as one unit in the last place takes an int8 network."""
    sampling = Sampling(tmp_path / "python.png", count=4, steps=5, seed=3)
    sample(served_run, sampling, SILENT)
    command = ("sample_images", served_run, "--count", 4, "--steps", 5, "--seed", 3, "--threads", 1)
    done = call(*command, "-o", tmp_path / "cpp.png")
    assert (done.returncode, done.stderr) == (0, "")
    wanted, found = (np.asarray(Image.open(tmp_path / f"{name}.png")).astype(int) for name in ("python", "cpp"))
    assert found.shape == wanted.shape
    assert np.mean((found - wanted) ** 2) < 255**2 / 10**4  # 40 dB


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++", "euler"])
def test_samples_of_the_same_noise_are_pythons(sampler: str, served_run: Path, call: Call, tmp_path: Path) -> None:
    engine = load_engine(served_run, which="ort-fp32", options=ONE)
    manifest = json.loads((served_run / "manifest.json").read_text(encoding="utf-8"))
    schedule = NoiseSchedule.from_json(manifest["denoiser"]["schedule"])
    start = initial_noise((3, *engine.sample_shape), 1)
    np.save(tmp_path / "noise.npy", start.numpy())
    command = ("sample_images", served_run, "--which", "ort-fp32", "--steps", 4, "--sampler", sampler, "--threads", 1)
    done = call(*command, "--noise", tmp_path / "noise.npy", "-o", tmp_path / "a.png", "--samples", tmp_path / "x.npy")
    assert done.returncode == 0, done.stderr
    wanted = sample_loop(engine, make_scheduler(schedule, sampler), start, 4).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), wanted, rtol=0, atol=1e-5 * max(1, np.abs(wanted).max()))


def false_digest(manifest: dict[str, Any]) -> None:
    manifest["artefacts"]["denoiser.ort-int8.onnx"]["sha256"] = "0" * 64


def not_text(manifest: dict[str, Any]) -> None:
    manifest["artefacts"]["denoiser.ort-int8.onnx"]["sha256"] = 7


def without_engine(manifest: dict[str, Any]) -> None:
    del manifest["artefacts"]["denoiser.ort-int8.onnx"]


def of_no_target(manifest: dict[str, Any]) -> None:
    del manifest["target"]


def of_an_older_schema(manifest: dict[str, Any]) -> None:
    manifest["schema"] = 1


@pytest.mark.parametrize("change", [false_digest, not_text, without_engine, of_no_target, of_an_older_schema])
def test_a_false_manifest_is_refused_in_pythons_words(
    change: Callable[[dict[str, Any]], None], copied_run: Path, call: Call, tmp_path: Path
) -> None:
    edited(copied_run / "manifest.json", change)
    told = refused(lambda: load_engine(copied_run, options=ONE))
    done = call("sample_images", copied_run, "--steps", 2, "-o", tmp_path / "a.png")
    assert (done.returncode, done.stderr) == (2, told)
    assert not (tmp_path / "a.png").exists()


def test_a_flipped_bit_of_the_network_is_refused(copied_run: Path, call: Call, tmp_path: Path) -> None:
    path = copied_run / "denoiser.ort-int8.onnx"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    told = refused(lambda: load_engine(copied_run, options=ONE))
    done = call("sample_images", copied_run, "--steps", 2, "-o", tmp_path / "a.png")
    assert (done.returncode, done.stderr) == (2, told)


def test_a_file_that_is_a_link_out_of_the_folder_is_refused(copied_run: Path, call: Call, tmp_path: Path) -> None:
    path = copied_run / "denoiser.ort-int8.onnx"
    shutil.move(path, tmp_path / "elsewhere.onnx")
    path.symlink_to(tmp_path / "elsewhere.onnx")
    told = refused(lambda: load_engine(copied_run, options=ONE))
    done = call("sample_images", copied_run, "--steps", 2, "-o", tmp_path / "a.png")
    assert (done.returncode, done.stderr) == (2, told)


@pytest.mark.parametrize(
    ("feeds", "python"),
    [
        ({"sample": np.zeros((1, 1, 4, 4), np.float32)}, True),
        ({"sample": np.zeros((1, 8, 8), np.float32)}, True),
        ({"sample": np.full((1, 1, 8, 8), np.nan, np.float32)}, True),
        ({"timestep": np.array([1000])}, True),
        ({"timestep": np.array([-1])}, True),
        ({"timestep": np.array([0, 1])}, True),
        ({"label": np.array([0])}, True),
        ({"timestep": np.array([0.5], np.float32)}, False),
        ({"sample": np.zeros((1, 1, 8, 8), np.int64)}, True),
    ],
)
def test_a_bad_feed_is_refused_in_pythons_words(
    feeds: dict[str, Any], python: bool, served_run: Path, call: Call, tmp_path: Path
) -> None:
    given = {"sample": np.zeros((1, 1, 8, 8), np.float32), "timestep": np.array([0])} | feeds
    engine = load_engine(served_run, options=ONE)
    told = refused(lambda: engine(**given))
    words = []
    for name, value in given.items():
        np.save(tmp_path / f"{name}.npy", value)
        words.append(f"{name}={tmp_path / name}.npy")
    done = call("probe", "run", served_run, "", tmp_path / "out.npy", *words)
    assert done.returncode == 2
    if python:  # integers come as integers in C++: a float is refused whatever it holds
        assert done.stderr == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--steps", "0"], "--steps is '0', not an integer of 1..1000000000"),
        (["--steps", "7x"], "--steps is '7x'"),
        (["--steps", "600"], "600 ddim steps of the 1000 training steps: the first would be t = 599"),
        (["--sampler", "unipc"], "unipc is not sampled from C++"),
        (["--class", "1"], "this engine has no classes"),
        (["--guidance", "2"], "guidance wants one row of every condition that it takes away"),
        (["--which", "openvino-int8"], "openvino-int8 is not served from C++"),
        (["--which", "mine"], "unknown target 'mine'"),
        (["--which", "trt-int8"], "has no denoiser.trt-int8.onnx in its manifest"),
        (["--noise", "absent.npy"], "absent.npy does not exist"),
        (["-o", "a.jpg"], "a.jpg would hold a PNG picture under another name"),
        (["--colour", "red"], "'--colour' is no flag of this program"),
        (["--count"], "--count wants a value"),
    ],
)
def test_bad_words_are_refused(words: list[str], told: str, served_run: Path, call: Call) -> None:
    done = call("sample_images", served_run, *words)
    assert done.returncode == 2
    assert told in done.stderr


def test_no_served_run_is_refused(call: Call, tmp_path: Path) -> None:
    told = refused(lambda: load_engine(tmp_path, options=ONE))
    assert call("sample_images", tmp_path).stderr == told
