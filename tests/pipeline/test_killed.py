"""A process that is killed at any point leaves a run that is whole, or that the same command takes up."""

import subprocess
import sys
from pathlib import Path

import killed
import pytest
from least import least_manifest

from ptq_export.artifacts import describe_file, is_leftover, write_json
from ptq_export.errors import InputError
from ptq_export.graph import model_file
from ptq_export.lock import LOCK
from ptq_export.run_folder import RunFolder
from ptq_export.schemas import read_part


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Copies of a folder, in each of which the process was killed one change to the disk later."""
    place = tmp_path_factory.mktemp("killed")
    folders = {"amend": finished(place / "amended"), "create": place / "created", "save": large(place / "saved")}
    arguments = [str(part) for what, folder in folders.items() for part in (folder, what)]
    command = [sys.executable, str(killed.__file__), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    counts = map(int, done.stdout.split())
    return {
        what: [folder.with_name(f"{folder.name}-{changes}") for changes in range(count)]
        for (what, folder), count in zip(folders.items(), counts, strict=True)
    }


def finished(folder: Path) -> Path:
    with RunFolder.create(folder, killed.REQUEST) as run:
        run.save_json("kept.json", {"schema": 2, "wanted_db": 1.0, "layers": []})
        run.save_json("verdict.json", least_manifest()["verdict"])
    (folder / "kept.png").write_bytes(b"old")
    artefacts = {name: describe_file(folder / name) for name in ("kept.json", "kept.png", "verdict.json")}
    write_json(folder / "manifest.json", least_manifest(artefacts=artefacts, command="old"))
    return folder


def test_an_amended_run_is_whole_wherever_the_process_was_killed(copies: dict[str, list[Path]]) -> None:
    states = []
    for copy in copies["amend"]:
        with RunFolder.open(copy) as run:
            manifest = read_part(copy, "manifest.json")
            wanted = {"old": (1.0, b"old"), "new": (2.0, b"new")}[manifest["command"]]
            assert (read_part(copy, "kept.json")["wanted_db"], (copy / "kept.png").read_bytes()) == wanted
            assert manifest["artefacts"] == {name: describe_file(copy / name) for name in manifest["artefacts"]}
            assert read_part(copy, "verdict.json") == {"schema": 2} | manifest["verdict"]
            assert run.has("kept.json")
            states.append(manifest["command"])
        assert [file.name for file in copy.iterdir() if file.name.startswith(".")] == []
    assert len(states) > 10 and states == sorted(states, reverse=True) and set(states) == {"old", "new"}


def test_a_run_killed_as_it_begins_is_taken_up_by_the_same_command(copies: dict[str, list[Path]]) -> None:
    assert len(copies["create"]) > 4
    for copy in copies["create"]:
        with RunFolder.create(copy, killed.REQUEST) as run:
            assert read_part(copy, "request.json") == killed.REQUEST and set(run.names) <= {"kept.json"}
        assert not any(is_leftover(file.name) or file.name == LOCK for file in copy.iterdir())


def large(folder: Path) -> Path:
    """A folder with a model in two files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model_file, "SELF_CONTAINED_BYTES", 1000)
        model_file.save_model(killed.net(1.0), folder / "net.onnx")
    return folder


def test_a_large_model_is_whole_or_absent_wherever_the_process_was_killed(copies: dict[str, list[Path]]) -> None:
    found = []
    for copy in copies["save"]:
        graph = copy / "net.onnx"
        weights = model_file.load_model(graph).graph.initializers["w"].const_value if graph.exists() else None
        found.append(None if weights is None else float(weights.numpy().mean()))
    assert found[0] == 1.0 and found[-1] == 2.0 and set(found) == {1.0, None, 2.0}
    assert found == sorted(found, key=[1.0, None, 2.0].index)


def test_an_amendment_that_fails_changes_nothing(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with RunFolder.create(folder, killed.REQUEST) as run:
        with pytest.raises(KeyboardInterrupt), run.amending():
            run.save_json("kept.json", {"schema": 2, "wanted_db": 2.0, "layers": []})
            raise KeyboardInterrupt
        assert run.has("kept.json")
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


HOLDER = "import sys, time; from pathlib import Path; from ptq_export.lock import acquire\n"
HOLDER += "acquire(Path(sys.argv[1])); print(flush=True); time.sleep(60)"


def test_a_second_process_is_refused_by_the_first_one_s_id_until_that_ends(tmp_path: Path) -> None:
    folder = finished(tmp_path / "run")
    with subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline()
        with pytest.raises(InputError, match=f"process {first.pid} on .* is at work on"):
            RunFolder.create(folder, killed.REQUEST)
        first.kill()
    assert (folder / LOCK).exists()
    with RunFolder.create(folder, killed.REQUEST), RunFolder.create(folder, killed.REQUEST):
        assert (folder / LOCK).exists(), "a process may open its own folder twice"
    assert not (folder / LOCK).exists()
