"""A tuning is found again under its machine and graph, and nowhere else; damage is a miss, and said."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from ptq_export.pipeline.tuning.cache import cache_file, recall, remember

KEY: dict[str, Any] = {"machine": {"cpu": "one", "isa": ("avx2",)}, "graph": {"checkpoint_sha256": "ab"}}
TUNING = {
    "schema": 2,
    "budget_s": 9.0,
    "seconds": 8.0,
    "batch": 1,
    "chosen": {"split_shortcut": False, "float_layers": {"mid.conv1": "kept float"}},
    "total": None,
    "sqnr_db": {"untuned": 40.0, "tuned": 39.9, "loss_allowed": 0.1},
    "trials": [],
    "not_reached": [],
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "ptq-export" / "tune"


def test_what_was_remembered_is_recalled(cache: Path) -> None:
    assert recall(KEY) is None and not cache.exists()
    remember(KEY, TUNING)
    assert recall(KEY) == TUNING
    assert [file.name for file in cache.iterdir()] == [cache_file(KEY).name]


@pytest.mark.parametrize("changed", [{"machine": {"cpu": "two", "isa": ["avx2"]}}, {"graph": {}}, {"loss_db": 1}])
def test_another_machine_or_graph_has_another_tuning(changed: dict[str, Any]) -> None:
    remember(KEY, TUNING)
    assert recall(KEY | changed) is None


@pytest.mark.parametrize("damage", ["truncated", "changed", "other file", "no object"])
def test_damage_is_a_miss_and_is_said(damage: str, caplog: pytest.LogCaptureFixture) -> None:
    remember(KEY, TUNING)
    path, other = cache_file(KEY), KEY | {"graph": {}}
    text = path.read_text()
    if damage == "truncated":
        path.write_text(text[: len(text) // 2])
    elif damage == "changed":
        path.write_text(text.replace("mid.conv1", "mid.conv2"))
    elif damage == "other file":
        remember(other, TUNING)
        path.write_bytes(cache_file(other).read_bytes())
    else:
        path.write_text(json.dumps({}))
    assert recall(KEY) is None
    assert f"{path} is damaged: what it held is measured again" in caplog.text
    remember(KEY, TUNING)
    assert recall(KEY) == TUNING


def test_a_folder_that_cannot_be_written_costs_the_memory_alone(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file")
    remember(KEY, TUNING)
    assert recall(KEY) is None
    assert "this tuning is not kept for other runs: cannot write" in caplog.text


def test_a_user_without_a_home_has_his_tuning_for_as_long_as_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")  # HOME unset, a user that only has a number

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    remember(KEY, TUNING)
    assert recall(KEY) == TUNING
    assert cache_file(KEY).is_relative_to(tempfile.gettempdir())
