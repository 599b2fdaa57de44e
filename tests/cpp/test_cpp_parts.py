"""The small parts below the C++ library do as Python's: JSON and its digests, SHA-256, this machine, targets."""

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from cpp_tools import Call

from ptq_export.artifacts import inside, read_json
from ptq_export.engines.build_cache import current, differences, read_identity
from ptq_export.errors import InputError
from ptq_export.machine import physical_cores
from ptq_export.processor import instruction_sets
from ptq_export.targets import TARGETS

TEXTS = {
    "plain": '{"b": [1, -2, {"c": null}], "a": true, "z": "text"}',
    "unicode": '{"é": "\\u00e9\\n\\ud83d\\ude00 ☃", "\\u0001": "\\"\\\\/"}',
    "least": "{}",
    "blank": ' \n\t{ "a" : [ ] , "b" : { } }\r\n',
    "integers": '{"a": 9223372036854775807, "b": -9223372036854775807, "c": 0, "d": -0}',
    "too large": '{"a": 9223372036854775808}',
    "much too large": '{"a": 123456789012345678901234567890}',
    "twice": '{"a": 1, "a": 1}',
    "twice inside": '{"x": {"a": 1, "a": 2}}',
    "not an object": "[1]",
    "NaN": '{"a": NaN}',
    "Infinity": '{"a": -Infinity}',
    "infinite": '{"a": 1e999}',
    "leading zero": '{"a": 01}',
    "plus": '{"a": +1}',
    "no digits": '{"a": 1.}',
    "comma": '{"a": 1,}',
    "list comma": '{"a": [1,]}',
    "no colon": '{"a" 1}',
    "no end": '{"a": [1',
    "behind": "{} {}",
    "comment": '{"a": 1} // one',
    "quotes": "{'a': 1}",
    "control": '{"a": "\x01"}',
    "escape": '{"a": "\\x41"}',
    "half": '{"a": "\\ud83d"}',
    "other half": '{"a": "\\ude00"}',
    "short": '{"a": "\\u12"}',
    "deep": '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
    "empty": "",
    "word": '{"a": nul}',
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_json_is_read_as_in_python_or_refused(text: str, call: Call, tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(text, encoding="utf-8")
    done = call("probe", "json", path)
    try:
        wanted = json.dumps(read_json(path), sort_keys=True, separators=(",", ":"))
    except InputError:
        assert done.returncode == 2
        assert str(path) in done.stderr
        return
    assert (done.returncode, done.stdout) == (0, f"{wanted}\n")


def test_what_is_not_utf8_is_refused(call: Call, tmp_path: Path) -> None:
    for content in (b'{"a": "\xff"}', b'{"a": "\xc0\x80"}', b'{"a": "\xed\xa0\x80"}', b'{"a": "\xf4\x90\x80\x80"}'):
        (tmp_path / "file.json").write_bytes(content)
        assert call("probe", "json", tmp_path / "file.json").returncode == 2


def test_no_pipe_is_waited_for_and_no_large_file_read(call: Call, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert "is a named pipe" in call("probe", "json", tmp_path / "pipe").stderr
    assert "is a folder" in call("probe", "json", tmp_path).stderr
    with (tmp_path / "large").open("wb") as file:
        file.truncate((1 << 25) + 1)
    assert "JSON of at most 32 is read" in call("probe", "json", tmp_path / "large").stderr


@pytest.mark.parametrize("size", [0, 1, 55, 56, 63, 64, 65, 119, 120, 1 << 16, (1 << 16) + 1])
def test_sha256_is_hashlibs(size: int, call: Call, tmp_path: Path) -> None:
    content = np.random.default_rng(size).bytes(size)
    (tmp_path / "file").write_bytes(content)
    assert call("probe", "sha256", tmp_path / "file").stdout == hashlib.sha256(content).hexdigest() + "\n"


def test_this_machine_is_named_as_in_python(call: Call) -> None:
    here = current("ort", {}, "")
    wanted = [here.os, here.arch, str(physical_cores()), *instruction_sets()]
    assert call("probe", "machine").stdout.split() == wanted


def test_every_target_is_served_from_the_same_file_or_refused_by_name(call: Call) -> None:
    for name, target in TARGETS.items():
        done = call("probe", "target", name)
        if target.engine in ("ort", "trt"):
            assert done.stdout.split() == [target.engine, target.onnx]
        else:
            assert f"{name} is not served from C++" in done.stderr


def test_names_lead_nowhere_else(call: Call, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "engine").mkdir(parents=True)
    (tmp_path / "outside").touch()
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "within").symlink_to(folder / "engine")
    (folder / "circle").symlink_to(folder / "circle")
    names = ("a", "engine/a", "within/a", "../outside", "engine/../a", str(tmp_path / "outside"), "link", "link/a")
    for name in (*names, "circle", "x" * 300, "absent/a"):
        try:
            wanted = f"{inside(folder, name)}\n"
        except InputError:
            wanted = ""
        done = call("probe", "inside", folder, name)
        assert (done.stdout, done.returncode) == (wanted, 0 if wanted else 2), name


def test_an_identity_and_its_note_are_pythons(served_run: Path, call: Call) -> None:
    path = served_run / "engine" / "denoiser.ort-int8.optimised.onnx"
    found, _ = read_identity(path)
    written, note, *told = call("probe", "identity", path).stdout.splitlines()
    assert written == json.dumps(asdict(found), sort_keys=True, separators=(",", ":"))
    assert note == "1"
    assert told == differences(found, current("ort", {"onnxruntime": "0"}, found.onnx_sha256))


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY", b"\x93NUMPY\x01\x00\xff\xff{}", b"PK\x03\x04"])
def test_what_is_no_array_is_refused(content: bytes, served_run: Path, call: Call, tmp_path: Path) -> None:
    (tmp_path / "noise.npy").write_bytes(content)
    done = call("sample_images", served_run, "--noise", tmp_path / "noise.npy", "-o", tmp_path / "a.png")
    assert (done.returncode, "noise.npy" in done.stderr) == (2, True)


def test_arrays_of_other_types_and_orders_are_refused(served_run: Path, call: Call, tmp_path: Path) -> None:
    plain = np.zeros((1, 1, 8, 8), np.float32)
    for array in (plain.astype(np.float64), plain.astype(">f4"), np.asfortranarray(np.zeros((2, 1, 8, 8), np.float32))):
        np.save(tmp_path / "noise.npy", array)
        done = call("sample_images", served_run, "--noise", tmp_path / "noise.npy", "-o", tmp_path / "a.png")
        assert (done.returncode, "not float32 or int64 in C order" in done.stderr) == (2, True)
    content = (np.save(tmp_path / "noise.npy", plain), (tmp_path / "noise.npy").read_bytes())[1]
    (tmp_path / "noise.npy").write_bytes(content[:-4])
    done = call("sample_images", served_run, "--noise", tmp_path / "noise.npy", "-o", tmp_path / "a.png")
    assert "its header says 256" in done.stderr


def test_a_terminal_is_shown_no_bytes_of_a_strangers_file(call: Call, tmp_path: Path) -> None:
    np.save(tmp_path / "noise.npy", np.zeros((1, 1, 2, 2), np.float32))
    words = ("euler", 5, tmp_path / "noise.npy", tmp_path / "out.npy")
    for schedule in (
        {"prediction_type": "\x1b[31m\n"},
        {"beta_schedule": "\x07" * 99},
        {"\x1b" * 99: 1},
        {"é" * 99: 1},
    ):
        (tmp_path / "schedule.json").write_text(json.dumps(schedule), encoding="utf-8")
        done = call("trace", tmp_path / "schedule.json", *words)
        assert (done.returncode, done.stderr.replace("\n", "").isprintable()) == (2, True), done.stderr
    (tmp_path / "noise.npy").write_bytes((tmp_path / "noise.npy").read_bytes().replace(b"<f4", b"\xff\x1b4"))
    (tmp_path / "schedule.json").write_text("{}", encoding="utf-8")
    done = call("trace", tmp_path / "schedule.json", *words)
    assert (done.returncode, "'??4'" in done.stderr) == (2, True), done.stderr


def test_noise_that_is_no_sample_is_refused(served_run: Path, call: Call, tmp_path: Path) -> None:
    for shape in ((), (4,), (0, 1, 8, 8), (1, 1, 4, 4)):
        np.save(tmp_path / "noise.npy", np.zeros(shape, np.float32))
        done = call("sample_images", served_run, "--noise", tmp_path / "noise.npy", "-o", tmp_path / "a.png")
        assert (done.returncode, "noise" in done.stderr or "sample" in done.stderr) == (2, True), done.stderr
