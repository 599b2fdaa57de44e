"""A run folder belongs to one set of options, holds whole files, and takes a damaged one for absent."""

from pathlib import Path

import pytest
import torch

from ptq_export.artifacts import sha256_file
from ptq_export.errors import InputError
from ptq_export.lock import LOCK
from ptq_export.run_folder import RunFolder

REQUEST = {"schema": 2, "options": {"seed": 0, "metric": "l2.4"}, "versions": {"torch": "2.10"}}
KEPT = {"schema": 2, "wanted_db": 40.0, "layers": ["mid"]}
TENSORS = {"codes": torch.arange(6).reshape(2, 3).to(torch.int8)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "one"


def files(path: Path) -> list[str]:
    return sorted(file.name for file in path.iterdir() if file.name != LOCK)


def test_same_options_take_up_what_was_finished(path: Path) -> None:
    RunFolder.create(path, REQUEST).save_tensors("units/000.safetensors", TENSORS)
    again = RunFolder.create(path, REQUEST)
    loaded = again.load_tensors("units/000.safetensors")
    assert again.names == ["units/000.safetensors"]
    assert again.sha256("units/000.safetensors") == sha256_file(path / "units/000.safetensors")
    assert loaded is not None and torch.equal(loaded["codes"], TENSORS["codes"])


def test_json_is_kept_and_found_again(path: Path) -> None:
    RunFolder.create(path, REQUEST).save_json("kept.json", KEPT)
    assert RunFolder.create(path, REQUEST).load_json("kept.json") == KEPT


def test_other_options_are_refused_and_every_difference_is_named(path: Path) -> None:
    RunFolder.create(path, REQUEST)
    other = {"schema": 2, "options": {"seed": 3, "metric": "l2.4"}, "versions": {"torch": "2.11"}}
    before = {file: file.read_bytes() for file in path.iterdir() if file.name != LOCK}
    with pytest.raises(InputError) as caught:
        RunFolder.create(path, other)
    assert "seed: 0 there, 3 now; versions, torch: '2.10' there, '2.11' now" in caught.value.cause
    assert "metric" not in caught.value.cause
    assert "--out" in caught.value.remedy
    assert {file: file.read_bytes() for file in path.iterdir() if file.name != LOCK} == before


def test_folder_with_something_else_in_it_is_refused_and_left_alone(path: Path) -> None:
    path.mkdir(parents=True)
    (path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="not empty"):
        RunFolder.create(path, REQUEST)
    assert [(file.name, file.read_text()) for file in path.iterdir()] == [("thesis.txt", "years of work")]


def test_empty_folder_is_taken(path: Path) -> None:
    path.mkdir(parents=True)
    assert RunFolder.create(path, REQUEST).names == []
    assert files(path) == ["request.json"]


def test_file_in_place_of_the_folder_is_refused(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("a file")
    with pytest.raises(InputError, match="is a file"):
        RunFolder.create(path, REQUEST)
    assert path.read_text() == "a file"


def test_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("a file")
    with pytest.raises(InputError, match="cannot write"):
        RunFolder.create(tmp_path / "occupied" / "run", REQUEST)
    assert [file.name for file in tmp_path.iterdir()] == ["occupied"]


@pytest.mark.parametrize("damage", ["flipped", "truncated", "removed"])
def test_damaged_file_is_a_miss_and_is_said(damage: str, path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder.create(path, REQUEST)
    folder.save_tensors("pairs.safetensors", TENSORS)
    file = path / "pairs.safetensors"
    content = file.read_bytes()
    if damage == "removed":
        file.unlink()
    else:
        file.write_bytes(content[:-1] + (bytes([content[-1] ^ 1]) if damage == "flipped" else b""))
    assert not folder.has("pairs.safetensors")
    assert folder.load_tensors("pairs.safetensors") is None
    assert "pairs.safetensors is damaged or gone" in caplog.text


def test_file_that_was_never_finished_is_a_miss(path: Path) -> None:
    folder = RunFolder.create(path, REQUEST)
    (path / "layers.json").write_text("{}")
    assert (folder.has("layers.json"), folder.load_json("layers.json")) == (False, None)


def test_damaged_ledger_is_an_empty_one(path: Path) -> None:
    RunFolder.create(path, REQUEST).save_json("layers.json", {})
    (path / "ledger.json").write_text("{")
    assert RunFolder.create(path, REQUEST).names == []
    assert not RunFolder.create(path, REQUEST).has("layers.json")


def test_write_that_fails_keeps_the_old_file_and_leaves_no_other(path: Path) -> None:
    folder = RunFolder.create(path, REQUEST)
    folder.save_tensors("pairs.safetensors", TENSORS)
    with pytest.raises(TypeError):
        folder.save_json("pairs.safetensors", {"not": {"json"}})
    assert folder.has("pairs.safetensors")
    assert files(path) == ["ledger.json", "pairs.safetensors", "request.json"]


def test_forgotten_files_are_not_made_yet(path: Path) -> None:
    folder = RunFolder.create(path, REQUEST)
    folder.save_json("layers.json", {})
    folder.save_json("kept.json", {})
    folder.forget({"layers.json", "absent"})
    assert (folder.has("layers.json"), folder.has("kept.json")) == (False, True)
    assert RunFolder.create(path, REQUEST).names == ["kept.json"]


def test_a_package_that_came_later_is_recorded_and_then_held_to(path: Path) -> None:
    RunFolder.create(path, REQUEST).close()
    with RunFolder.create(path, REQUEST | {"versions": {"torch": "2.10", "openvino": "2026.4"}}) as folder:
        assert folder.request["versions"] == {"torch": "2.10", "openvino": "2026.4"}
    RunFolder.create(path, REQUEST).close()
    with pytest.raises(InputError, match=r"\(versions, openvino: '2026.4' there, '2026.5' now\)"):
        RunFolder.create(path, REQUEST | {"versions": {"openvino": "2026.5"}})
    assert RunFolder.open(path).request["versions"]["openvino"] == "2026.4"


def test_a_folder_without_a_run_is_not_opened_and_left_alone(path: Path) -> None:
    with pytest.raises(InputError, match=r"request.json"):
        RunFolder.open(path)
    assert not path.exists()
    path.mkdir(parents=True)
    with pytest.raises(InputError, match=r"request.json"):
        RunFolder.open(path)
    assert list(path.iterdir()) == []


def test_removed_files_are_gone(path: Path) -> None:
    folder = RunFolder.create(path, REQUEST)
    folder.save_json("layers.json", {})
    folder.save_json("kept.json", {})
    folder.remove(["layers.json", "absent"])
    assert folder.names == ["kept.json"] and files(path) == ["kept.json", "ledger.json", "request.json"]
