from dataclasses import replace

import pytest
import torch
from peers_run import make_run
from torch import Tensor

from ptq_export.benchmarks.peers.accuracy import Judge, Score, margin_db
from ptq_export.benchmarks.peers.subject import Subject, open_subject


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Subject:
    return open_subject([make_run(tmp_path_factory.mktemp("runs") / "ort")], tmp_path_factory.mktemp("steps"))


class Exact:
    """A network that counts the samples that it has seen."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, sample: Tensor, timestep: Tensor) -> Tensor:
        self.seen += len(sample)
        return 0.1 * sample + 0.01 * timestep[:, None, None, None] / 1000


def test_models_are_scored_by_their_likeness_to_the_reference(subject: Subject) -> None:
    exact = Exact()
    judge = Judge(subject, exact, samples=3, pairs=2)
    same, rough = judge.score(exact), judge.score(lambda x, t: 0.9 * exact(x, t))
    assert same.to_json()["psnr_min_db"] == same.to_json()["sqnr_worst_db"] == 150
    assert rough.sqnr_median_db == pytest.approx(20, abs=1e-3)
    assert len(rough.psnr_db) == 3 and len(rough.sqnr_db) == 20 and rough.digit_fid is None


def test_the_reference_computes_nothing_twice(subject: Subject) -> None:
    exact = Exact()
    judge = Judge(subject, exact, samples=2, pairs=2)
    before = exact.seen
    judge.score(lambda x, t: torch.zeros_like(x))
    assert exact.seen == before


def test_images_of_random_weights_are_not_scored(subject: Subject) -> None:
    exact = Exact()
    score = Judge(replace(subject, spec="random:ddim-cifar10"), exact, samples=2, pairs=2).score(exact)
    assert score.psnr_db == [] and score.psnr_mean_db is None
    assert score.sqnr_median_db == 150


def test_margin_is_paired_over_the_samples() -> None:
    assert margin_db(Score([30, 50], []), Score([28, 48], [])) == (2, 0)
    assert margin_db(Score([30, 50], []), Score([31, 45], [])) == pytest.approx((2, 3))


def test_margin_without_images_is_that_of_the_time_steps() -> None:
    assert margin_db(Score([], [30, 40]), Score([], [29, 37])) == pytest.approx((2, 1))
