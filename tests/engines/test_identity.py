"""The sidecar: what was built is used again only where every part of its identity is the same."""

from dataclasses import replace
from pathlib import Path

import pytest

from ptq_export.engines.identity import current, differences, read_identity, stale_reasons, write_identity
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


def test_the_processor_is_known() -> None:
    assert HERE.isa == instruction_sets() != ()
