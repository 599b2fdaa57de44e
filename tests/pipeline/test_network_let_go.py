"""What a run holds in memory, stage by stage."""

import gc
from pathlib import Path

import tiny
from watcher import Watcher

from ptq_export.denoiser import UNetEps
from ptq_export.pipeline import run
from ptq_export.run_folder import RunFolder


def networks() -> set[int]:
    """Every network in this process, copies and simulations alike."""
    return {id(it) for it in gc.get_objects() if type(it) is UNetEps}


class Census(Watcher):
    """Counts the networks that have come into memory when a stage begins."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.found = networks(), dict[str, int]()

    def stage(self, name: str, total: int | None) -> None:
        super().stage(name, total)
        self.found[name] = len(networks() - self.before)


def test_the_network_is_let_go_when_its_engine_is_proved(copied: Path) -> None:
    with RunFolder.open(copied) as folder:
        folder.forget(["parity.json", "latency.json"])
    census = Census()
    run(tiny.options(copied), census)
    assert census.found["parity, layer by layer"] >= 2
    assert census.found["time of each layer"] == census.found["latency per step of 1"] == 0
