import json
import shutil
from pathlib import Path

import pytest
import torch
from peers_run import make_run
from safetensors.torch import load_file, save_file

from ptq_export.artifacts import read_json
from ptq_export.benchmarks.peers.subject import open_subject
from ptq_export.errors import InputError
from ptq_export.interface import inputs_to_json, label


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "ort")


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "ort"))


@pytest.fixture
def other(run: Path, tmp_path: Path) -> Path:
    """The same network for another target."""
    folder = Path(shutil.copytree(run, tmp_path / "openvino"))
    (folder / "denoiser.ort-int8.onnx").rename(folder / "denoiser.openvino-int8.onnx")
    change(folder, target="openvino-int8")
    return folder


def change(folder: Path, **values: object) -> None:
    manifest = read_json(folder / "manifest.json") | values
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_two_runs_of_one_network_are_one_subject(run: Path, other: Path) -> None:
    subject = open_subject([run, other], run.parent / "steps")
    assert [own.target for own in subject.own] == ["ort-int8", "openvino-int8"]
    assert [own.seconds for own in subject.own] == [4.0, 4.0]  # the pairs are given to the peers, too
    assert {"unet.conv_in", "unet.conv_out"} <= set(subject.float_layers)
    assert not set(subject.layers) & set(subject.float_layers)
    assert list(subject.pairs()) == ["sample", "timestep"]


def test_runs_with_other_pairs_are_refused(run: Path, other: Path) -> None:
    pairs = load_file(other / "pairs.safetensors")
    save_file(pairs | {"sample": pairs["sample"] + 1e-6}, other / "pairs.safetensors")
    with pytest.raises(InputError, match=r"calibrated on other pairs.*\n.*--seed"):
        open_subject([run, other], run.parent / "steps")


def test_runs_of_another_checkpoint_are_refused(run: Path, other: Path) -> None:
    change(other, denoiser=read_json(other / "manifest.json")["denoiser"] | {"sha256": "1" * 64})
    with pytest.raises(InputError, match="another checkpoint"):
        open_subject([run, other], run.parent / "steps")


def test_runs_with_other_int8_layers_are_refused_by_their_names(run: Path, other: Path) -> None:
    rows = read_json(other / "layers.json")["layers"]
    changed = next(row for row in rows if row["precision"] == "int8")
    changed["precision"] = "float"
    (other / "layers.json").write_text(json.dumps({"schema": 2, "layers": rows}))
    with pytest.raises(InputError, match=changed["name"]):
        open_subject([run, other], run.parent / "steps")


def test_two_runs_of_one_target_are_refused(run: Path) -> None:
    with pytest.raises(InputError, match="two of the runs are for ort-int8"):
        open_subject([run, run], run.parent / "steps")


def test_a_run_for_a_gpu_is_refused(run: Path) -> None:
    change(run, target="trt-int8")
    with pytest.raises(InputError, match=r"trt-int8\n.*ort-int8 or openvino-int8"):
        open_subject([run], run.parent / "steps")


@pytest.mark.parametrize("name", ["denoiser.ort-int8.onnx", "denoiser.fp32.onnx", "pairs.safetensors", "manifest.json"])
def test_incomplete_run_is_refused(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(InputError, match=name):
        open_subject([run], run.parent / "steps")


@pytest.mark.parametrize(("name", "precision"), [("unet.conv_in", "float"), ("unet.absent", "int8")])
def test_layers_that_the_fp32_graph_lacks_are_refused(run: Path, name: str, precision: str) -> None:
    rows = [{"name": name, "op": "Conv", "precision": precision, "intended": precision, "reason": ""}]
    (run / "layers.json").write_text(json.dumps({"schema": 2, "layers": rows}))
    with pytest.raises(InputError, match=r"denoiser\.fp32\.onnx has no layer (unet\.absent|that is int8)"):
        open_subject([run], run.parent / "steps")


def test_labels_are_part_of_the_pairs(run: Path) -> None:
    pairs = load_file(run / "pairs.safetensors")
    save_file(pairs | {"label": torch.zeros(4, dtype=torch.int64)}, run / "pairs.safetensors")
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["denoiser"]["inputs"] += inputs_to_json([label(3)])
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert list(open_subject([run], run.parent / "steps").pairs()) == ["sample", "timestep", "label"]
