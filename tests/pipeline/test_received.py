"""A run folder that someone else sent: nothing of it runs, no other file is shown, and no engine is believed."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tiny
from watcher import Watcher

from ptq_export.artifacts import sha256_file
from ptq_export.command_options import Sampling
from ptq_export.engines.base import EngineOptions
from ptq_export.errors import InputError
from ptq_export.pipeline import bench, compare, inspect, load_engine, sample, sensitivity, verify
from ptq_export.report import build_report
from ptq_export.sampling import initial_noise

ONNX = "denoiser.ort-int8.onnx"
CACHE, SIDECAR = "engine/denoiser.ort-int8.optimised.onnx", "engine/denoiser.ort-int8.identity.json"
NOISE = initial_noise((2, 1, 8, 8), 0).numpy()


def change(run: Path, name: str = "manifest.json", **parts: Any) -> None:
    value = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps(value | parts))


def name_ckpt(run: Path, spec: str) -> None:
    change(run, options=json.loads((run / "manifest.json").read_text())["options"] | {"ckpt": spec})


@pytest.fixture
def planted(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module beside the manifest, which names it; whoever imports it leaves a witness."""
    (copied / "planted.py").write_text(f"open({str(copied / 'ran')!r}, 'w').close()\n\ndef net():\n    pass\n")
    monkeypatch.syspath_prepend(copied)
    monkeypatch.chdir(copied)
    name_ckpt(copied, "planted:net")
    return copied


def test_no_command_imports_what_a_manifest_names(planted: Path, tmp_path: Path, watcher: Watcher) -> None:
    facts = verify(planted, watcher)
    assert (facts["parity"], facts["layers_with_equal_codes"]) == (None, None)
    assert "planted:net, which is code" in facts["not_proved"]
    bench(planted, watcher)
    sample(planted, Sampling(tmp_path / "a.png", 1, 2), watcher)
    for read in (inspect, build_report, load_engine, lambda run: compare(run, run)):
        read(planted)
    with pytest.raises(InputError, match="runs only if you name it"):
        sensitivity(planted, watcher)
    assert not (planted / "ran").exists() and "planted" not in sys.modules


def test_the_network_that_the_user_names_must_be_the_run_s(planted: Path, watcher: Watcher) -> None:
    assert verify(planted, watcher, tiny.SPEC)["parity"] > 20
    with pytest.raises(InputError, match="embedded:digits is not the checkpoint that"):
        verify(planted, watcher, "embedded:digits")


def test_nothing_is_told_of_a_file_that_a_manifest_names_as_its_checkpoint(
    copied: Path, tmp_path: Path, watcher: Watcher
) -> None:
    (tmp_path / "secret.txt").write_text("hidden words")
    name_ckpt(copied, str(tmp_path / "secret.txt"))
    with pytest.raises(InputError, match="cannot be used here") as refused:
        verify(copied, watcher)
    assert "hidden" not in str(refused.value) and sha256_file(tmp_path / "secret.txt") not in str(refused.value)
    name_ckpt(copied, str(tmp_path / "absent.pt"))
    assert "is not on this machine" in verify(copied, watcher)["not_proved"]


def zero_the_engine(run: Path) -> None:
    """Change the floats of the cached engine, and let its sidecar say that all is well."""
    model = onnx.load(run / CACHE)
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and tensor.raw_data:
            tensor.raw_data = bytes(len(tensor.raw_data))
    onnx.save(model, run / CACHE)
    change(run, SIDECAR, file_sha256=sha256_file(run / CACHE))


@pytest.mark.parametrize("call", [lambda run: None, lambda run: verify(run, Watcher())], ids=["at once", "verified"])
def test_a_cached_engine_that_was_changed_is_never_served(copied: Path, call: Callable[[Path], object]) -> None:
    before = load_engine(copied)(NOISE, 500)
    zero_the_engine(copied)
    call(copied)
    np.testing.assert_array_equal(load_engine(copied)(NOISE, 500), before)


def test_an_engine_that_came_with_the_folder_is_built_again_unless_the_folder_is_vouched_for(
    copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_engine(copied)
    built = (copied / CACHE).stat().st_mtime_ns
    load_engine(copied)
    assert (copied / CACHE).stat().st_mtime_ns == built
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "another account"))
    load_engine(copied, options=EngineOptions(trusted=True))
    assert (copied / CACHE).stat().st_mtime_ns == built
    load_engine(copied)
    assert (copied / CACHE).stat().st_mtime_ns > built


@pytest.mark.parametrize("name", ["../secret.txt", "{folder}/secret.txt", "link", "a/../../secret.txt"])
def test_a_name_that_leads_out_of_the_folder_is_refused_and_no_digest_told(
    copied: Path, tmp_path: Path, watcher: Watcher, name: str
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text("hidden words")
    (copied / "link").symlink_to(secret)
    change(copied, artefacts={name.format(folder=tmp_path): {"sha256": "00", "size_bytes": 1}})
    with pytest.raises(InputError, match="leads out of") as refused:
        verify(copied, watcher)
    assert sha256_file(secret) not in str(refused.value)


@pytest.mark.parametrize("name", ["engine", "units", "manifest.json", ONNX, "samples.safetensors"])
def test_a_link_that_leads_out_is_not_followed(copied: Path, tmp_path: Path, name: str) -> None:
    (copied / name).rename(tmp_path / "elsewhere")
    (copied / name).symlink_to(tmp_path / "elsewhere")
    calls: list[Callable[[], object]] = [
        lambda: load_engine(copied),
        lambda: bench(copied, Watcher()),
        lambda: build_report(copied),
    ]
    refusals = []
    for call in calls:
        try:
            call()
        except InputError as error:
            refusals.append(error)
    assert any("leads out of" in error.cause for error in refusals)


@pytest.mark.parametrize(
    ("name", "parts", "field"),
    [
        ("manifest.json", {"verdict": []}, "verdict is a list, not an object"),
        ("manifest.json", {"artefacts": {ONNX: {}}}, r"artefacts\..*\.sha256 is absent"),
        ("manifest.json", {"options": {"threads": 0}}, r"options\.threads is 0, not an integer of 1\.\."),
        ("manifest.json", {"options": {"effort": "x"}}, r"options\.effort is 'x', not 'quick' or"),
        ("request.json", {"options": 3}, "options is 3, not an object"),
    ],
)
def test_a_field_of_another_kind_is_named(
    copied: Path, watcher: Watcher, name: str, parts: dict[str, Any], field: str
) -> None:
    change(copied, name, **parts)
    with pytest.raises(InputError, match=rf"{name}: {field}"):
        bench(copied, watcher)


@pytest.mark.parametrize("location", ["/etc/hostname", "../secret", "link", "absent"])
def test_weights_in_another_file_are_refused_before_its_name_is_looked_at(tmp_path: Path, location: str) -> None:
    (tmp_path / "link").symlink_to("/etc/hostname")
    tensor = onnx.TensorProto(name="w", data_type=onnx.TensorProto.FLOAT, dims=[1], data_location="EXTERNAL")
    tensor.external_data.add(key="location", value=location)
    node = onnx.helper.make_node("Constant", [], ["w"], value=tensor)
    branch = onnx.helper.make_node("If", ["c"], ["y"], then_branch=onnx.GraphProto(node=[node]))
    for parts in ({"initializer": [tensor]}, {"node": [node]}, {"node": [branch]}):
        graph = onnx.GraphProto(name="g", **parts)
        (tmp_path / "a.onnx").write_bytes(onnx.helper.make_model(graph).SerializeToString())
        with pytest.raises(InputError, match="keeps its weights in another file"):
            inspect(tmp_path / "a.onnx")


def test_a_pipe_in_place_of_a_file_is_not_waited_for(copied: Path, watcher: Watcher) -> None:
    for name in ("manifest.json", ONNX):
        (copied / name).unlink()
        os.mkfifo(copied / name)
        with pytest.raises(InputError):
            load_engine(copied)
