"""The latency stage goes on behind the batches that it finished, if nothing has changed since."""

from pathlib import Path

import pytest
from watcher import Watcher

from ptq_export.artifacts import read_json
from ptq_export.pipeline.commands.reopened import reopen_engine
from ptq_export.pipeline.latency import measure_latency
from ptq_export.schemas import SCHEMA


class Stopped(Watcher):
    """Interrupts the job in the stage of batch 16."""

    def stage(self, name: str, total: int | None) -> None:
        super().stage(name, total)
        if name == "latency per step of 16":
            raise KeyboardInterrupt


@pytest.fixture
def stopped(copied: Path) -> Path:
    """A run whose latency was measured at batch 1 alone."""
    with reopen_engine(copied, Stopped()) as job:
        with pytest.raises(KeyboardInterrupt):
            measure_latency(job)
        assert job.folder.has("latency.batch-1.json") and not job.folder.has("latency.batch-16.json")
    return copied


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


@pytest.mark.parametrize("part", ["machine", "engines", "protocol"])
def test_a_batch_that_was_timed_under_other_conditions_is_timed_again(
    stopped: Path, watcher: Watcher, part: str
) -> None:
    with reopen_engine(stopped, watcher) as job:
        kept = read_json(stopped / "latency.batch-1.json")
        kept["conditions"][part] = dict.fromkeys(kept["conditions"][part])
        job.folder.save_json("latency.batch-1.json", kept)
        measure_latency(job)
    assert watcher.stages[0] == "latency per step of 1"
