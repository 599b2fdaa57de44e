"""The sidecar: what was built is used again only where every part of its identity is the same."""

import logging
import os
import resource
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ptq_export.engines.build_cache import (
    build_or_reuse,
    current,
    differences,
    read_identity,
    stale_reasons,
    write_identity,
)
from ptq_export.errors import EnvironmentMissing, InputError
from ptq_export.processor import instruction_sets

HERE = current("ort", {"onnxruntime": "1.32.0"}, "ab" * 32, {"optimisation": "all"})


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    path = tmp_path / "denoiser.fp32.optimised.onnx"
    path.write_bytes(b"engine")
    write_identity(path, HERE)
    return path


def test_the_sidecar_holds_the_identity(engine_file: Path) -> None:
    assert sorted(path.name for path in engine_file.parent.iterdir()) == [
        "denoiser.fp32.identity.json",
        engine_file.name,
    ]
    assert read_identity(engine_file)[0] == HERE
    assert stale_reasons(engine_file, HERE) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"versions": {"onnxruntime": "1.31.0"}}, "versions: onnxruntime 1.32.0 instead of onnxruntime 1.31.0"),
        ({"isa": ("avx2",)}, f"isa: {' '.join(HERE.isa)} instead of avx2"),
        ({"onnx_sha256": "cd" * 32}, f"onnx_sha256: {'ab' * 32} instead of {'cd' * 32}"),
        ({"options": {}}, "options: optimisation all instead of nothing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_every_difference_is_named(engine_file: Path, change: dict[str, object], reason: str) -> None:
    wanted = replace(HERE, **change)
    assert differences(HERE, wanted) == [reason]
    assert stale_reasons(engine_file, wanted) == [reason]


def test_a_damaged_engine_is_stale(engine_file: Path) -> None:
    engine_file.write_bytes(b"engine!")
    assert "is damaged" in stale_reasons(engine_file, HERE)[0]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"file_sha256": "", "isa": [], "colour": 1}', '{"isa": 3}', "\xff"])
def test_a_damaged_sidecar_is_stale(engine_file: Path, text: str) -> None:
    sidecar = engine_file.with_name("denoiser.fp32.identity.json")
    sidecar.write_bytes(text.encode("latin-1"))
    assert len(stale_reasons(engine_file, HERE)) == 1
    with pytest.raises(InputError, match="identity"):
        read_identity(engine_file)


def test_an_absent_engine_or_sidecar_is_stale(engine_file: Path) -> None:
    engine_file.with_name("denoiser.fp32.identity.json").unlink()
    assert "does not exist" in stale_reasons(engine_file, HERE)[0]
    engine_file.unlink()
    assert stale_reasons(engine_file, HERE) == [f"{engine_file.name} is not there"]


def test_what_is_kept_is_built_once(engine_file: Path, caplog: pytest.LogCaptureFixture) -> None:
    built: list[Path] = []

    def build(path: Path) -> None:
        built.append(path)
        path.write_bytes(b"new engine")

    newer = replace(HERE, engine="ov")
    with caplog.at_level(logging.INFO, logger="ptq_export"):
        assert build_or_reuse(engine_file, HERE, build, "building it", "it is built") == engine_file and built == []
        assert build_or_reuse(engine_file, newer, build, "building it", "it is built") == engine_file
        assert len(built) == 1
        assert build_or_reuse(engine_file, newer, build, "building it", "it is built") == engine_file
        assert len(built) == 1
    assert caplog.messages == ["building it: engine: ort instead of ov"] and engine_file.read_bytes() == b"new engine"


def test_in_a_folder_that_cannot_be_written_everyone_builds_a_file_of_his_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "engine").write_bytes(b"a file is in the way")
    path = tmp_path / "engine" / "denoiser.fp32.plan"
    first, second = (build_or_reuse(path, HERE, Path.touch, "building it", "it is built") for _ in range(2))
    assert path.name == first.name == second.name and first != second and stale_reasons(first, HERE) == []
    assert caplog.messages == [f"{path.parent} cannot be written: it is built at every start"] * 2


@pytest.fixture
def limited() -> Iterator[None]:
    """Files of at most 20 kB: what a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("limited")
@pytest.mark.parametrize(
    "error", [InputError("ONNX Runtime cannot load it: INVALID_PROTOBUF", "export it again"), None]
)
def test_without_any_room_the_disk_is_blamed(
    error: Exception | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def build(path: Path) -> None:
        path.write_bytes(bytes(20_000 if error else 20_001))
        raise error or AssertionError("written past the limit")

    path = tmp_path / "denoiser.fp32.plan"
    with pytest.raises(EnvironmentMissing, match="File too large\nfree some disk space, or set TMPDIR"):
        build_or_reuse(path, HERE, build, "building it", "it is built")
    assert caplog.messages == [f"{tmp_path}: File too large: it is built at every start"]
    assert list(tmp_path.iterdir()) == []


def test_an_error_that_is_not_the_disk_s_is_told_as_it_is(tmp_path: Path) -> None:
    def build(path: Path) -> None:
        raise InputError("no such operator")

    with pytest.raises(InputError, match="no such operator"):
        build_or_reuse(tmp_path / "denoiser.fp32.plan", HERE, build, "building it", "it is built")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a disk")
def test_on_a_full_disk_the_engine_is_built_beside_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        path = tmp_path / "denoiser.fp32.plan"
        found = build_or_reuse(path, HERE, lambda file: file.write_bytes(bytes(100_000)), "building it", "it is built")
        assert found.stat().st_size == 100_000 and found.name == path.name and stale_reasons(found, HERE) == []
        assert caplog.messages == [f"{tmp_path}: No space left on device: it is built at every start"]
        assert list(tmp_path.iterdir()) == []
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_processor_is_known() -> None:
    assert HERE.isa == instruction_sets() != ()
