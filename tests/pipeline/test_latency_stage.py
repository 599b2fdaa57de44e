"""The latency stage goes on behind the batches that it finished, if nothing has changed since."""

import shutil
from pathlib import Path

import pytest
from watcher import Watcher

from ptq_export.artifacts import read_json
from ptq_export.pipeline.commands.reopened import reopen_engine
from ptq_export.pipeline.latency import measure_latency
from ptq_export.schemas import SCHEMA


class Stopped(Watcher):
    """Interrupts the job in the stage of this batch."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self._batch = batch

    def stage(self, name: str, total: int | None) -> None:
        super().stage(name, total)
        if name == f"latency per step of {self._batch}":
            raise KeyboardInterrupt


@pytest.fixture(scope="module")
def stopped_once(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose latency was measured at batch 1 alone; do not change it."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("runs") / "stopped"))
    with reopen_engine(folder, Stopped(16)) as job:
        with pytest.raises(KeyboardInterrupt):
            measure_latency(job)
        assert job.folder.has("latency.batch-1.json") and not job.folder.has("latency.batch-16.json")
    return folder


@pytest.fixture
def stopped(stopped_once: Path, tmp_path: Path) -> Path:
    """The same in a folder of the test's own."""
    return Path(shutil.copytree(stopped_once, tmp_path / "stopped"))


def test_a_batch_that_is_timed_is_not_timed_again(stopped: Path, watcher: Watcher) -> None:
    kept = read_json(stopped / "latency.batch-1.json")
    with reopen_engine(stopped, watcher) as job:
        latency = measure_latency(job)
    assert watcher.stages == ["latency per step of 16"]
    assert (latency["steps"][0], latency["loops"]) == (kept["step"], kept["loops"])
    assert latency["peak_memory_bytes"] == kept["peak_memory_bytes"] != {}
    assert [step["batch"] for step in latency["steps"]] == [1, 16]
    assert read_json(stopped / "latency.json") == {"schema": SCHEMA, **latency}
    assert not list(stopped.glob("latency.batch-*")) and not any("batch-" in name for name in job.folder.names)


def test_a_batch_that_nobody_asked_for_and_takes_minutes_is_left_out_and_said(
    stopped: Path, watcher: Watcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = read_json(stopped / "latency.batch-1.json")["step"]
    ten_rounds = 10 * sum(latency["median_ms"] for latency in kept["candidates"].values()) / 1e3
    monkeypatch.setattr("ptq_export.pipeline.latency.UNASKED_SECONDS", 15 * ten_rounds)
    with reopen_engine(stopped, watcher) as job:
        latency = measure_latency(job)
    assert [step["batch"] for step in latency["steps"]] == [1] and watcher.stages == []
    (told,) = (message for message in watcher.messages if "batch" in message)
    assert told.startswith("batch 16 is not timed: it would take") and told.endswith("--batch 16 does")


@pytest.mark.parametrize("part", ["machine", "engines", "protocol"])
def test_a_batch_that_was_timed_under_other_conditions_is_timed_again(stopped: Path, part: str) -> None:
    again = Stopped(1)
    with reopen_engine(stopped, again) as job:
        kept = read_json(stopped / "latency.batch-1.json")
        kept["conditions"][part] = dict.fromkeys(kept["conditions"][part])
        job.folder.save_json("latency.batch-1.json", kept)
        with pytest.raises(KeyboardInterrupt):
            measure_latency(job)
    assert again.stages == ["latency per step of 1"]
