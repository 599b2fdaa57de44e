"""A package of a text-to-image run: prompts in and pictures out, without the run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ptq_export.artifacts import describe_file
from ptq_export.command_options import Packaging, Sampling, Serving
from ptq_export.errors import GateFailed, InputError
from ptq_export.packaging import check_package, package
from ptq_export.pipeline import sample
from ptq_export.pipeline.progress import SILENT
from ptq_export.serving.metrics import Metrics
from ptq_export.serving.model import load_models

PARTS = ("decoder.onnx", "text_encoder.onnx", "tokenizer.json")


def to_folder(run: Path) -> Path:
    return Path(package(run, Packaging(run.parent / "out"))["package"])


def drawn(run: Path, picture: Path) -> bytes:
    sample(run, Sampling(picture, 2, 3, prompt="a red apple", negative="a dog", guidance=4.0), SILENT)
    return picture.read_bytes()


def test_it_draws_and_serves_prompts_as_the_run_does(worded: Path, tmp_path: Path) -> None:
    out, wanted = to_folder(worded), drawn(worded, tmp_path / "run.png")
    shutil.rmtree(worded)
    assert {*PARTS} < {path.name for path in out.iterdir()}
    assert drawn(out, tmp_path / "package.png") == wanted
    [model] = load_models(out, Serving(max_batch=1), Metrics()).values()
    assert model.subject.encoding is not None and model.subject.size == "8x8" and {*model.subject.examples} == {"sizes"}
    model.close()
    again = Path(package(out, Packaging(tmp_path / "again"))["package"])
    assert (again / "SHA256SUMS").read_bytes() == (out / "SHA256SUMS").read_bytes()


@pytest.mark.parametrize("name", PARTS)
def test_its_parts_are_held_to_their_digests(worded: Path, name: str) -> None:
    out = to_folder(worded)
    assert check_package(out)["prompts"] == "loaded"
    for folder, error in ((out, GateFailed), (worded, InputError)):
        (folder / name).write_bytes((folder / name).read_bytes()[:-1])
        with pytest.raises(error, match=f"{name} is damaged"):
            check_package(folder) if folder == out else package(folder, Packaging(out.parent / "other"))
    assert not (out.parent / "other").exists()


def test_the_container_and_the_page_know_of_prompts(worded: Path) -> None:
    out = to_folder(worded)
    assert 'PTQ_EXPORT="ptq-export[serve,text]==' in (out / "Dockerfile").read_text()
    page = (out / "README.md").read_text()
    assert "text_encoder.onnx" in page and "decoder.onnx" in page and "$" not in page


def test_examples_that_differ_stay_in_the_run(worded: Path, tmp_path: Path) -> None:
    """They are calibration data: whoever samples from the package gives their own."""
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    save_file({"sizes": rows}, worded / "pairs.safetensors")
    manifest = json.loads((worded / "manifest.json").read_text())
    manifest["artefacts"]["pairs.safetensors"] = describe_file(worded / "pairs.safetensors")
    (worded / "manifest.json").write_text(json.dumps(manifest))
    out = to_folder(worded)
    with pytest.raises(InputError, match="which has no examples of sizes"):
        drawn(out, tmp_path / "package.png")
    [model] = load_models(out, Serving(max_batch=1), Metrics()).values()
    assert model.subject.examples == {}
    model.close()


@pytest.mark.parametrize("value", ["a", [1], [1, [2]], [1e39, 1], {"a": 1}, None])
def test_examples_that_are_none_are_refused(worded: Path, tmp_path: Path, value: object) -> None:
    out = to_folder(worded)
    manifest = json.loads((out / "manifest.json").read_text())
    manifest["package"]["examples"] = {"sizes": value}
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"sizes|package\.examples"):
        drawn(out, tmp_path / "package.png")
