"""The sidecar: what was built is used again only where every part of its identity is the same."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from ptq_export.engines.identity import current, differences, kept, read_identity, stale_reasons, write_identity
from ptq_export.errors import InputError
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
        assert kept(engine_file, HERE, build, "building it", "it is built") == engine_file and built == []
        assert kept(engine_file, newer, build, "building it", "it is built") == engine_file and len(built) == 1
        assert kept(engine_file, newer, build, "building it", "it is built") == engine_file and len(built) == 1
    assert caplog.messages == ["building it: engine: ort instead of ov"] and engine_file.read_bytes() == b"new engine"


def test_in_a_folder_that_cannot_be_written_everyone_builds_a_file_of_his_own(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "engine").write_bytes(b"a file is in the way")
    path = tmp_path / "engine" / "denoiser.fp32.plan"
    first, second = (kept(path, HERE, Path.touch, "building it", "it is built") for _ in range(2))
    assert path.name == first.name == second.name and first != second and stale_reasons(first, HERE) == []
    assert caplog.messages == [f"{path.parent} cannot be written: it is built at every start"] * 2


def test_the_processor_is_known() -> None:
    assert HERE.isa == instruction_sets() != ()
