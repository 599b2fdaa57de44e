"""JSON that is read back: bounded in size, depth and range; whatever else is refused by one kind of error."""

import os
import time
from pathlib import Path

import pytest

from ptq_export import artifacts
from ptq_export.artifacts import MAX_JSON_BYTES, inside, is_leftover, read_json, sha256_file, write_json
from ptq_export.errors import InputError


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * 200_000, "nested too deeply"),
        ('{"a":' * 50_000 + "1" + "}" * 50_000, "nested too deeply"),
        (f'{{"a": {"9" * 5000}}}', "of 5000 digits is too large"),
        ('{"a": 9223372036854775808}', "too large"),
        ('{"a": 1, "b": 2, "a": 3}', "holds 'a' twice"),
        ('{"a": NaN}', "NaN is no JSON"),
        ('{"a": -Infinity}', "-Infinity is no JSON"),
        ('{"a": 1e999}', "1e999 is no finite number"),
        ('{"a": "\\ud800"}', "surrogates"),
        ("[]", "is not a JSON object"),
        ("", "cannot be read"),
    ],
)
def test_json_that_this_package_does_not_write_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match=reason):
        read_json(tmp_path / "a.json")


def test_json_larger_than_any_of_ours_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "a.json").open("wb") as file:
        file.truncate(MAX_JSON_BYTES + 1)
    with pytest.raises(InputError, match="JSON of at most 32"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match="would take 33 MiB"):
        write_json(tmp_path / "b.json", {"a": "x" * (33 << 20)})


def test_a_pipe_and_a_folder_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path, kind in ((tmp_path / "pipe", "named pipe"), (tmp_path, "folder"), (tmp_path / "gone", "does not exist")):
        with pytest.raises(InputError, match=kind):
            read_json(path)


def test_numbers_that_json_cannot_hold_are_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": [1.5, float("nan")], "b": {"c": float("inf")}})
    assert read_json(tmp_path / "a.json") == {"a": [1.5, None], "b": {"c": None}}


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "\0", "x" * 5000, "circle"])
def test_names_that_lead_nowhere_or_out_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(InputError):
        inside(tmp_path, name)


LEFT = [".request.json.k3j_x9a0.json", ".a.b.onnx.00000000.onnx", ".a.onnx.00000000.onnx.data"]


@pytest.mark.parametrize("name", LEFT)
def test_what_a_killed_write_leaves_is_known(name: str) -> None:
    assert is_leftover(name)
    assert not is_leftover(name[1:]) and not is_leftover(name + "x")


def test_other_hidden_files_are_not_ours() -> None:
    names = [".gitignore", ".lock", ".a.json", ".config.json.bak", ".notes.tomorrow.txt", ".config.settings"]
    assert not any(map(is_leftover, names))


def read_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the digest of a file is made from its bytes."""
    with monkeypatch.context() as patch:
        opened: list[Path] = []
        patch.setattr(Path, "open", lambda self, *_: opened.append(self) or open(self, "rb"))  # noqa: PTH123, SIM115
        sha256_file(path)
        return bool(opened)


def test_a_large_file_is_read_again_only_after_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"one")
    time.sleep(0.15)
    assert read_again(path, monkeypatch) and read_again(path, monkeypatch), "it is small"
    monkeypatch.setattr(artifacts, "REMEMBERED_BYTES", 3)
    assert read_again(path, monkeypatch) and not read_again(path, monkeypatch)
    before, times = sha256_file(path), path.stat()
    path.write_bytes(b"two")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert sha256_file(path) != before, "its time was put back"
    assert read_again(path, monkeypatch), (
        "it was changed a moment ago, and may be so again within one tick of the clock"
    )
