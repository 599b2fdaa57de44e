"""Conditions from C++: labels, guidance, a learned variance, and the prompt graph that is computed once per prompt."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cpp_tools import Call, refused
from exported_net import inputs_of
from least import least_manifest
from nets_by_hand import PROMPT_CONDITIONS, PROMPTED, net_by_hand

from ptq_export.artifacts import describe_file
from ptq_export.denoiser import NoiseSchedule
from ptq_export.engines.base import EngineOptions
from ptq_export.engines.load import load_engine
from ptq_export.graph.prompt_file import save_split
from ptq_export.guidance import Guided
from ptq_export.interface import Input, inputs_to_json, label
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler

ONE = EngineOptions(threads=1)
LABELLED = """
<ir_version: 10, opset_import: ["": 18]>
net (float[batch,2,4,4] sample, int64[batch] timestep, int64[batch] label) => (float[batch,4,4,4] eps)
<float[4,2,1,1] w = {1,0.5,-0.25,1, 0.5,0.5,1,-1}, int64[3] sides = {-1, 1, 1}, int64[1] minus = {-1},
 float[3,1] table = {0, 0.5, -0.75}, int64[4] shape = {-1, 1, 1, 1}>
{
    hidden = Conv(sample, w)
    row = Gather(table, label)
    shift = Reshape(row, shape)
    moved = Add(hidden, shift)
    eps = Tanh(moved)
}
"""


def make_run(folder: Path, text: str, shape: tuple[int, ...], *conditions: Input, **schedule: Any) -> Path:
    """A run folder of a network by hand: its FP32 graph, split where it can be, is the target's."""
    inputs = inputs_of(shape, *conditions)
    folder.mkdir()
    path = save_split(net_by_hand(text, shape, *conditions), folder / "denoiser.fp32.onnx")
    told = NoiseSchedule(clip_sample=False, **schedule).to_json()
    denoiser = {"spec": "", "sha256": "", "notes": [], "sample_shape": list(shape), "schedule": told}
    denoiser["inputs"] = inputs_to_json(inputs)
    manifest = least_manifest(denoiser=denoiser, target="ort-fp32", artefacts={path.name: describe_file(path)})
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return folder


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    """Three classes, and a learned variance."""
    return make_run(tmp_path / "labelled", LABELLED, (2, 4, 4), label(3), variance_type="learned_range")


@pytest.fixture
def prompted(tmp_path: Path) -> Path:
    """A text of any length, which is read by a prompt graph, and a shift, which the step reads."""
    folder = make_run(tmp_path / "prompted", PROMPTED, (2, 4), *PROMPT_CONDITIONS)
    assert (folder / "denoiser.fp32.prompt.onnx").exists()
    return folder


def predict(call: Call, run: Path, folder: Path, **feeds: Any) -> Any:
    words = []
    for name, value in feeds.items():
        np.save(folder / f"{name}.npy", value)
        words.append(f"{name}={folder / name}.npy")
    return call("probe", "run", run, "", folder / "prediction.npy", *words)


def sampled(call: Call, run: Path, folder: Path, *words: object) -> Any:
    noise = initial_noise((3, 2, 4, 4), 0)
    np.save(folder / "noise.npy", noise.numpy())
    command = ("sample_images", run, "--steps", 5, "--noise", folder / "noise.npy", "--samples", folder / "x.npy")
    done = call(*command, "-o", folder / "a.png", *words)
    assert done.returncode == 0, done.stderr
    return np.load(folder / "x.npy"), noise


def test_a_class_is_a_condition(labelled: Path, call: Call, tmp_path: Path) -> None:
    engine = load_engine(labelled, options=ONE)
    found, noise = sampled(call, labelled, tmp_path, "--class", 2)
    scheduler = make_scheduler(NoiseSchedule(clip_sample=False), "ddim")
    wanted = sample_loop(engine, scheduler, noise, 5, {"label": torch.full((3,), 2)})
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-6 * wanted.abs().max().item())


def test_guidance_is_pythons_with_two_rows_per_sample(labelled: Path, call: Call, tmp_path: Path) -> None:
    engine = load_engine(labelled, options=ONE)
    np.save(tmp_path / "labels.npy", np.array([0, 1, 2]))
    words = ("--condition", f"label={tmp_path / 'labels.npy'}", "--guidance", 3.5, "--unconditional", "label=1")
    found, noise = sampled(call, labelled, tmp_path, *words)
    guided = Guided(engine, 3.5, {"label": torch.tensor([1])})
    scheduler = make_scheduler(NoiseSchedule(clip_sample=False), "ddim")
    wanted = sample_loop(guided, scheduler, noise, 5, {"label": torch.tensor([0, 1, 2])})
    np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-6 * wanted.abs().max().item())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--class", "3"], "class 3 is out of range"),
        ([], "this engine is conditional: label [N] int64 is missing"),
        (["--condition", "label=0", "--condition", "text=0"], "this engine has no input text"),
        (["--class", "0", "--guidance", "2", "--unconditional", "text=0"], "text is missing"),
        (["--class", "0", "--guidance", "2", "--unconditional", "label=5"], "the label [5, 5, 0, 0] is out of range"),
    ],
)
def test_wrong_conditions_are_refused(words: list[str], told: str, labelled: Path, call: Call, tmp_path: Path) -> None:
    done = call("sample_images", labelled, "--count", 2, "--steps", 2, "-o", tmp_path / "a.png", *words)
    assert (done.returncode, told in done.stderr) == (2, True), done.stderr


def test_a_prompt_of_any_length_is_pythons(prompted: Path, call: Call, tmp_path: Path) -> None:
    engine, rng = load_engine(prompted, options=ONE), np.random.default_rng(0)
    for batch, tokens in ((1, 5), (2, 1), (3, 7)):
        feeds = {
            "sample": rng.standard_normal((batch, 2, 4)).astype(np.float32),
            "timestep": np.arange(batch),
            "text": rng.standard_normal((batch, tokens, 3)).astype(np.float32),
            "shift": rng.standard_normal((batch, 2, 4)).astype(np.float32),
        }
        done = predict(call, prompted, tmp_path, **feeds)
        assert done.returncode == 0, done.stderr
        np.testing.assert_allclose(np.load(tmp_path / "prediction.npy"), engine(**feeds), rtol=0, atol=1e-6)


def test_another_prompt_is_computed_anew_and_the_same_one_is_not(prompted: Path, call: Call) -> None:
    """`prompts` writes other texts into one buffer: predictions follow the numbers, not the address."""
    done = call("probe", "prompts", prompted)
    assert (done.returncode, done.stdout) == (0, "1 0 1\n")


def test_a_prompt_graph_that_is_gone_or_another_is_refused(prompted: Path, call: Call, tmp_path: Path) -> None:
    zeros = {"sample": np.zeros((1, 2, 4), np.float32), "timestep": np.array([0])}
    zeros |= {"text": np.zeros((1, 2, 3), np.float32), "shift": np.zeros((1, 2, 4), np.float32)}
    beside = prompted / "denoiser.fp32.prompt.onnx"
    content = beside.read_bytes()
    for damaged in (content[:-1] + b"\0", None):
        beside.unlink()
        if damaged is not None:
            beside.write_bytes(damaged)
        told = refused(lambda: load_engine(prompted, options=ONE))
        assert predict(call, prompted, tmp_path, **zeros).stderr.endswith(told)


def test_rows_and_open_sizes_are_checked_in_pythons_words(prompted: Path, call: Call, tmp_path: Path) -> None:
    engine = load_engine(prompted, options=ONE)
    feeds = {"sample": np.zeros((2, 2, 4), np.float32), "timestep": np.array([0])}
    feeds |= {"text": np.zeros((2, 2, 3), np.float32), "shift": np.zeros((2, 2, 4), np.float32)}
    wrong = ({"text": np.zeros((1, 2, 3), np.float32)}, {"text": np.zeros((2, 3), np.float32)})
    shifts = (np.zeros((2, 2, 5), np.float32), np.full((2, 2, 4), np.inf, np.float32))
    for change in (*wrong, *({"shift": shift} for shift in shifts)):
        given = feeds | change
        told = refused(lambda given=given: engine(**given))  # type: ignore[misc]
        done = predict(call, prompted, tmp_path, **given)
        assert (done.returncode, done.stderr.endswith(told)) == (2, True), done.stderr
