from dataclasses import replace

import pytest

from ptq_export.benchmarks.peers.estimate import Work, estimate_s

NOTHING = Work(0, 64, 0, 0, 0, 0, 0, 30, (1, 16), (1, 2))


def test_nothing_to_do_takes_no_time() -> None:
    assert estimate_s(NOTHING, 0.01) == 0


@pytest.mark.parametrize(
    "more", [{"peers": 1}, {"models": 2}, {"compiled": 1}, {"own": 1}, {"models": 2, "samples": 8}], ids=str
)
def test_every_kind_of_work_takes_time(more: dict[str, int]) -> None:
    assert estimate_s(replace(NOTHING, **more), 0.01) > estimate_s(NOTHING, 0.01)


def test_scoring_grows_with_the_samples_and_timing_with_the_batches() -> None:
    work = replace(NOTHING, models=10, samples=256)
    assert estimate_s(replace(work, samples=512), 0.01) > estimate_s(work, 0.01)
    assert estimate_s(replace(work, batches=(1, 4, 16)), 0.01) > estimate_s(work, 0.01)
    assert estimate_s(work, 0.02) > 1.5 * estimate_s(work, 0.01)
