"""The format `folder`: all that a service needs, whole or not at all, and nothing of the machine that made it."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ptq_export.command_options import Packaging
from ptq_export.engines import load_engine
from ptq_export.engines.base import EngineOptions
from ptq_export.errors import GateFailed, InputError
from ptq_export.packaging import check_package, is_package, package
from ptq_export.packaging.sums import write_sums
from ptq_export.pipeline import bench, verify
from ptq_export.pipeline.progress import SILENT

GRAPH = "denoiser.ort-int8.onnx"
ONE = EngineOptions(threads=1)
FEEDS = {
    "labelled": {"label": np.array([3, 7])},
    "large": {"label": np.array([3, 7])},
    "prompted": {"text": np.full((2, 5, 3), 0.1, np.float32), "shift": np.zeros((2, 2, 4), np.float32)},
}


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def to_folder(run: Path) -> Path:
    return Path(package(run, Packaging(run.parent / "out"))["package"])


@pytest.mark.parametrize("kind", FEEDS)
def test_the_engine_of_a_package_predicts_the_same_bit_for_bit(kind: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue(kind)
    out = to_folder(run)
    first, second = load_engine(run, options=ONE), load_engine(out, options=ONE)
    sample = np.random.default_rng(0).standard_normal((2, *first.sample_shape)).astype(np.float32)
    expected = first(sample, 500, **FEEDS[kind])
    assert np.array_equal(second(sample, 500, **FEEDS[kind]), expected) and expected.std() > 0
    shutil.rmtree(run)
    assert check_package(out)["engine"] == "loaded"


def test_coreutils_check_it_and_name_what_is_damaged(large: Path) -> None:
    out = to_folder(large)
    command = ["sha256sum", "--check", "SHA256SUMS"]
    assert subprocess.run(command, cwd=out, capture_output=True).returncode == 0
    flip(out / f"{GRAPH}.data")
    done = subprocess.run(command, cwd=out, capture_output=True, text=True)
    assert done.returncode == 1 and f"{GRAPH}.data: FAILED" in done.stdout
    with pytest.raises(GateFailed, match=rf"{GRAPH}\.data is damaged"):
        check_package(out)


def test_a_file_that_was_put_beside_or_taken_away_is_named(labelled: Path) -> None:
    out = to_folder(labelled)
    load_engine(out, options=ONE)
    assert (out / "engine").is_dir() and check_package(out)["files"] == 5
    (out / "extra.py").write_text("")
    with pytest.raises(GateFailed, match=r"does not name: extra\.py"):
        check_package(out)
    (out / "extra.py").rename(out / "manifest.json")
    with pytest.raises(GateFailed, match=r"manifest\.json is damaged"):
        check_package(out)


@pytest.mark.parametrize(
    "line", ["", "00  manifest.json\n", f"{'0' * 64}  ../manifest.json\n", f"{'0' * 64}  /etc/hosts\n"]
)
def test_sums_that_are_none_or_lead_out_are_refused(labelled: Path, line: str) -> None:
    out = to_folder(labelled)
    (out / "SHA256SUMS").write_text(line)
    with pytest.raises(InputError, match=r"per line|leads out"):
        check_package(out)


@pytest.mark.parametrize("name", [GRAPH, f"{GRAPH}.data"])
def test_a_damaged_run_is_refused_by_its_digest_and_leaves_nothing(large: Path, name: str) -> None:
    flip(large / name)
    with pytest.raises(InputError, match=f"{name} is damaged: its sha256 is"):
        to_folder(large)
    assert sorted(path.name for path in large.parent.iterdir()) == ["large"]


def test_a_run_whose_proofs_did_not_hold_is_no_package(labelled: Path) -> None:
    manifest = json.loads((labelled / "manifest.json").read_text())
    manifest["verdict"] |= {"ok": False, "failures": ["median SQNR 9 dB"]}
    (labelled / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(GateFailed, match="did not hold: median SQNR 9 dB"):
        to_folder(labelled)


def test_what_stands_there_is_never_changed(labelled: Path, prompted: Path) -> None:
    out = labelled.parent / "out"
    out.mkdir()
    assert to_folder(labelled) == out == to_folder(labelled), "an empty folder gives way, the same package stays"
    with pytest.raises(InputError, match="holds another package"):
        to_folder(prompted)
    flip(out / GRAPH)
    with pytest.raises(GateFailed, match="is damaged"):
        to_folder(labelled)
    shutil.rmtree(out)
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty and holds no package"):
        to_folder(labelled)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    assert sorted(path.name for path in out.parent.iterdir()) == ["labelled", "out", "prompted"]


def test_a_write_that_fails_leaves_nothing(labelled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ptq_export.packaging.registry.write_sums", full)
    with pytest.raises(InputError, match="No space left"):
        to_folder(labelled)
    assert sorted(path.name for path in labelled.parent.iterdir()) == ["labelled"]


def test_nothing_of_the_machine_that_made_it_goes_along(labelled: Path) -> None:
    (labelled / "pairs.safetensors").write_text("calibration")
    out = to_folder(labelled)
    manifest = json.loads((out / "manifest.json").read_text())
    assert sorted(path.name for path in out.iterdir()) == [
        ".dockerignore", "Dockerfile", "README.md", "SHA256SUMS", GRAPH, "manifest.json",
    ]  # fmt: skip
    assert (manifest["denoiser"]["spec"], manifest["command"], manifest["environment"]) == ("net.pt", "", {})
    assert [*manifest["artefacts"]] == [GRAPH] and "home" not in (out / "README.md").read_text()
    assert (out.stat().st_mode & 0o777, (out / GRAPH).stat().st_mode & 0o444) == (0o755, 0o444)


def test_a_manifest_that_tells_of_other_inputs_is_refused(labelled: Path) -> None:
    manifest = json.loads((labelled / "manifest.json").read_text())
    manifest["denoiser"]["inputs"][2]["limit"] = 11
    (labelled / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="tells other inputs"):
        to_folder(labelled)


def test_a_package_can_be_packaged_and_is_no_run(labelled: Path) -> None:
    out = to_folder(labelled)
    again = Path(package(out, Packaging(labelled.parent / "again"))["package"])
    assert (again / "SHA256SUMS").read_bytes() == (out / "SHA256SUMS").read_bytes()
    with pytest.raises(InputError, match="is a package"):
        bench(out, SILENT)
    with pytest.raises(InputError, match="is a package"):
        verify(out, SILENT)


def test_it_is_not_written_into_its_run_and_formats_are_known_by_name(labelled: Path) -> None:
    with pytest.raises(InputError, match="lies in the run itself"):
        package(labelled, Packaging(labelled / "out"))
    with pytest.raises(InputError, match=r"unknown format 'tritn'\ndid you mean triton\?"):
        package(labelled, Packaging(labelled.parent / "out", "tritn"))
    manifest = json.loads((labelled / "manifest.json").read_text())
    graph = labelled / "denoiser.jetson-int8.onnx"
    shutil.copyfile(labelled / GRAPH, graph)
    manifest |= {"target": "jetson-int8", "artefacts": {graph.name: manifest["artefacts"][GRAPH]}}
    (labelled / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="folder jetson/"):
        to_folder(labelled)


def test_a_run_folder_to_which_somebody_added_digests_is_a_run_still(labelled: Path) -> None:
    """Else `verify` would prove no more than its digests."""
    write_sums(labelled)
    assert not is_package(labelled)
    assert is_package(to_folder(labelled))
