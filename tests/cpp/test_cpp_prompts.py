"""Prompts from C++: the pictures of `ptq-export sample`, and its words where one cannot be drawn."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from clip_run import clip_run, described_again
from cpp_tools import Call, edited
from PIL import Image
from safetensors.numpy import save_file
from worded_run import worded_run

from ptq_export.command_options import Packaging, Sampling
from ptq_export.conditions import draw
from ptq_export.interface import Input
from ptq_export.options import Options
from ptq_export.packaging import package
from ptq_export.pipeline import load_pipeline, sample
from ptq_export.pipeline import run as export
from ptq_export.pipeline.progress import SILENT
from ptq_export.sampling import initial_noise

ASKED: dict[str, dict[str, Any]] = {
    "the run's guidance": {"prompt": "a red apple"},
    "none": {"prompt": "a Red  apple, naïve café", "guidance": 1.0},
    "away from a prompt": {"prompt": "a red apple", "negative": "a green dog", "guidance": 5.0},
    "the run's prompts": {},
}
SETTINGS: dict[str, tuple[str, Callable[[dict[str, Any]], object]]] = {
    "model.type": ("'Unigram'", lambda it: it["model"].update(type="Unigram")),
    "model.dropout": ("0.5", lambda it: it["model"].update(dropout=0.5)),
    "model.end_of_word_suffix": ("''", lambda it: it["model"].update(end_of_word_suffix="")),
    "model.merges": ("'aa'", lambda it: it["model"].update(merges=[["a", "a"]], vocab={"<|endoftext|>": 0, "a": 1})),
    "normalizer": ("'Precompiled'", lambda it: it.update(normalizer={"type": "Precompiled"})),
    "pre_tokenizer": ("'Metaspace'", lambda it: it.update(pre_tokenizer={"type": "Metaspace"})),
    "pre_tokenizer ": ("'Sequence'", lambda it: it["pre_tokenizer"]["pretokenizers"].reverse()),
    "post_processor.type": ("'BertProcessing'", lambda it: it["post_processor"].update(type="BertProcessing")),
    "post_processor.cls": ("a list", lambda it: it["post_processor"].update(cls=["a", "b"])),
    "added_tokens.lstrip": ("True", lambda it: it["added_tokens"][0].update(lstrip=True)),
    "truncation": ("null", lambda it: it.update(truncation=None)),
    "truncation.max_length": ("5", lambda it: it["truncation"].update(max_length=5)),
    "padding.direction": ("'Left'", lambda it: it["padding"].update(direction="Left")),
    "padding.strategy": ("'BatchLongest'", lambda it: it["padding"].update(strategy="BatchLongest")),
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {"sd": clip_run(folder / "sd", alike=True), "sdxl": clip_run(folder / "sdxl", two=True)}


@pytest.fixture
def run(runs: dict[str, Path], tmp_path: Path) -> Path:
    """One of the test's own."""
    return clip_run(tmp_path / "run")


def words(asked: dict[str, Any]) -> list[object]:
    return [word for name, value in asked.items() for word in (f"--{name}", value)]


def refusal(call: Call, run: Path, *asked: object) -> str:
    done = call("sample_images", run, "--count", 1, "--steps", 2, "-o", run.parent / "no.png", *asked)
    assert done.returncode == 2 and not (run.parent / "no.png").exists(), done.stderr
    return done.stderr


@pytest.mark.parametrize(("kind", "name"), [*zip(("sd", "sd", "sdxl", "sdxl"), ASKED, strict=True)])
def test_a_prompt_draws_pythons_picture(
    kind: str, name: str, runs: dict[str, Path], call: Call, tmp_path: Path
) -> None:
    """From the same noise to 1e-5, and from the same seed, whose noise differs in the last places, within a level; nine
    samples are more than are encoded or decoded at once, and than there are examples."""
    run, asked, count = runs[kind], ASKED[name], 9
    drawing = load_pipeline(run)
    noise = initial_noise((count, *drawing.engine.sample_shape), 3)
    np.save(tmp_path / "noise.npy", noise.numpy())
    command = ("sample_images", run, "--steps", 5, "--seed", 3, *words(asked))
    done = call(*command, "--noise", tmp_path / "noise.npy", "--samples", tmp_path / "x.npy", "-o", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    prompts = [asked["prompt"]] * count if "prompt" in asked else [*drawing.encoder.parts.prompts] * 5
    conditions = drawing.conditions(prompts[:count], count, 3)
    guidance = drawing.guidance(asked.get("negative", ""), asked.get("guidance"))
    wanted = drawing.draw(noise, conditions, guidance, 5)
    assert wanted.shape == (count, 3, 8, 8) and wanted.std() > 0.05
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), wanted, rtol=0, atol=1e-5)
    assert call(*command, "--count", count, "-o", tmp_path / "a.png").returncode == 0
    sample(run, Sampling(tmp_path / "b.png", count, 5, seed=3, **asked), SILENT)
    one, other = (np.asarray(Image.open(tmp_path / file)).astype(int) for file in ("a.png", "b.png"))
    assert np.abs(one - other).max() <= 1


def test_a_service_draws_prompts_by_the_library_alone(runs: dict[str, Path], call: Call, tmp_path: Path) -> None:
    done = call("probe", "pictures", runs["sdxl"], tmp_path / "x.npy")
    assert done.returncode == 0, done.stderr
    wanted = load_pipeline(runs["sdxl"])(
        ["a red apple", "a green dog"], guidance=7.5, steps=4, sampler="dpm-solver++", seed=7
    )
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("available", "count", "seed"), [(1, 3, 0), (7, 20, 5), (1000, 8, 2**32 + 9)])
def test_rows_of_examples_are_those_that_torch_draws(
    available: int, count: int, seed: int, run: Path, call: Call, tmp_path: Path
) -> None:
    rows = torch.arange(2.0 * available).reshape(available, 2)
    save_file({"sizes": rows.numpy()}, run / "pairs.safetensors")
    assert call("probe", "examples", run, "sizes", count, seed, tmp_path / "x.npy").returncode == 0
    wanted = draw([Input("sizes", "float32", (2,))], {"sizes": rows}, count, seed)
    assert np.array_equal(np.load(tmp_path / "x.npy"), wanted["sizes"])


def test_a_prompt_that_is_too_long_is_cut_and_said_as_in_python(run: Path, call: Call, tmp_path: Path) -> None:
    long = "a red dog " * 12
    done = call("sample_images", run, "--count", 1, "--steps", 5, "--prompt", long, "-o", tmp_path / "a.png")
    [told] = sample(run, Sampling(tmp_path / "b.png", 1, 5, prompt=long), SILENT)["notes"]
    assert (done.returncode, done.stderr) == (0, f"{told}\n")


def test_a_package_draws_as_the_run_does(runs: dict[str, Path], call: Call, tmp_path: Path) -> None:
    """Examples that are all one lie in a package; those that differ are calibration data, and stay in the run."""
    made = {kind: Path(package(run, Packaging(tmp_path / kind))["package"]) for kind, run in runs.items()}
    pictures = []
    for folder in (made["sd"], runs["sd"]):
        command = ("sample_images", folder, "--count", 2, "--steps", 3, "--prompt", "a dog")
        done = call(*command, "-o", tmp_path / "a.png")
        assert done.returncode == 0, done.stderr
        pictures.append((tmp_path / "a.png").read_bytes())
    assert pictures[0] == pictures[1]
    assert "is a package, which has no examples of sizes" in refusal(call, made["sdxl"], "--prompt", "a dog")


def test_conditions_by_hand_take_the_place_of_a_prompt(run: Path, call: Call, tmp_path: Path) -> None:
    np.save(tmp_path / "text.npy", np.full((1, 12, 3), 0.1, np.float32))
    given = ("--condition", f"text={tmp_path / 'text.npy'}")
    done = call("sample_images", run, "--count", 1, "--steps", 2, "-o", tmp_path / "a.png", *given)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert "text is given, which a prompt decides" in refusal(call, run, *given, "--prompt", "a dog")


@pytest.mark.parametrize("name", ["text_encoder.onnx", "tokenizer.json", "decoder.onnx"])
def test_a_damaged_part_is_refused(name: str, run: Path, call: Call) -> None:
    (run / name).write_bytes((run / name).read_bytes() + b" ")
    assert f"{name} is damaged" in refusal(call, run, "--prompt", "a dog")


@pytest.mark.parametrize("name", SETTINGS)
def test_another_tokenizer_is_refused_by_the_name_of_what_differs(name: str, run: Path, call: Call) -> None:
    shown, change = SETTINGS[name]
    edited(run / "tokenizer.json", change)
    told = refusal(call, described_again(run), "--prompt", "a dog")
    assert f"tokenizer.json: {name.strip()}" in told and shown in told, told


def test_prompts_that_cannot_be_used_are_refused(run: Path, call: Call, tmp_path: Path) -> None:
    assert "model.type is 'WordLevel'" in refusal(call, worded_run(tmp_path / "words"), "--prompt", "a dog")
    for flag in ("--prompt", "--negative"):
        assert "a prompt is not UTF-8" in refusal(call, run, flag, b"a \xff dog".decode(errors="surrogateescape"))
    bare = ("--negative", "a dog", "--guidance", 1)
    assert "a negative prompt says nothing without guidance" in refusal(call, run, *bare)
    assert "--unconditional" in refusal(call, run, "--unconditional", "text=0")
    edited(run / "manifest.json", lambda it: it["denoiser"].update(text=None))
    for flag in ("--prompt", "--negative"):
        assert "this engine takes no prompts" in refusal(call, run, flag, "a dog")


def test_examples_that_are_gone_or_damaged_are_refused(run: Path, call: Call) -> None:
    pairs = run / "pairs.safetensors"
    whole = pairs.read_bytes()
    header = whole[8:].replace(b"[6,2]", b"[7,2]", 1)
    for content in (whole[:6], whole[:40], whole[:-200], whole[:8] + header, b"\xff" * 8 + whole[8:]):
        pairs.write_bytes(content)
        assert "pairs.safetensors" in refusal(call, run, "--prompt", "a dog")
    save_file({"sizes": np.zeros((6, 3), np.float32)}, pairs)
    assert "the sizes" in refusal(call, run, "--prompt", "a dog")
    pairs.unlink()
    assert "pairs.safetensors does not exist" in refusal(call, run, "--prompt", "a dog")


def test_a_manifest_with_another_number_of_tokenizers_is_refused(run: Path, call: Call) -> None:
    manifest = json.loads((run / "manifest.json").read_text())
    for count, told in ((0, "denoiser.text.tokenizers"), (5, "denoiser.text.tokenizers"), (2, "no tokenizer.2.json")):
        manifest["denoiser"]["text"]["tokenizers"] = count
        (run / "manifest.json").write_text(json.dumps(manifest))
        assert told in refusal(call, run, "--prompt", "a dog")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sd1", "sd2", "sdxl", "lcm", "inpaint"])
def test_pipelines_of_every_kind_are_drawn_as_in_python(kind: str, call: Call, tmp_path: Path) -> None:
    """Of diffusers' own classes, through the whole job; the float engine, whose samples differ in the last places."""
    sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))
    import tiny_pipelines

    quick = {"samples": 8, "steps": 4, "held_out": 2, "rounds": 10, "seconds": 0.0, "threads": 1, "min_sqnr": 0.0}
    folder = tiny_pipelines.saved(kind, tmp_path)
    made = export(Options(str(folder), out=tmp_path / "run", rounding="nearest", **quick))
    drawing, count = load_pipeline(made, "ort-fp32"), 3
    noise = initial_noise((count, *drawing.engine.sample_shape), 3)
    np.save(tmp_path / "noise.npy", noise.numpy())
    asked = ("--prompt", "a Red apple", "--noise", tmp_path / "noise.npy", "--samples", tmp_path / "x.npy")
    command = ("sample_images", made, "--which", "ort-fp32", "--steps", 4, "--seed", 3, *asked)
    done = call(*command, "-o", tmp_path / "a.png")
    assert done.returncode == 0, done.stderr
    conditions = drawing.conditions(["a Red apple"] * count, count, 3)
    wanted = drawing.draw(noise, conditions, drawing.guidance("", None), 4)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), wanted, rtol=0, atol=1e-5)
