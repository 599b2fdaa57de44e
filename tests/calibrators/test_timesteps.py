"""Each time-step policy draws the distribution that its name promises, from a generator of its own."""

import pytest
import torch

from ptq_export.calibrators.timesteps import NDTC_MEAN, NDTC_STD, POLICIES, draw_step_indices, find_policy
from ptq_export.errors import InputError

EVERY_STEP = torch.arange(999, -1, -1)
COUNT = 20_000


def drawn_times(policy: str, count: int = COUNT) -> torch.Tensor:
    return EVERY_STEP[draw_step_indices(policy, EVERY_STEP, 1000, count, seed=1)].double()


def test_ndtc_is_a_truncated_normal_without_an_atom_at_zero() -> None:
    times = drawn_times("ndtc")
    normal = torch.distributions.Normal(NDTC_MEAN, NDTC_STD)
    edges = torch.arange(0, 1001, 100)
    mass = normal.cdf(edges / 1000).diff()
    share = torch.histogram(times, bins=edges.double()).hist / COUNT
    torch.testing.assert_close(share, (mass / mass.sum()).double(), atol=0.01, rtol=0)
    assert (times == 0).double().mean() < 0.003


def test_uniform_covers_all_times_evenly() -> None:
    share = torch.histogram(drawn_times("uniform"), bins=10, range=(0.0, 1000.0)).hist / COUNT
    torch.testing.assert_close(share, torch.full_like(share, 0.1), atol=0.01, rtol=0)


def test_single_is_one_time() -> None:
    assert drawn_times("single").unique().tolist() == [1000 * NDTC_MEAN]


def test_as_released_counts_loop_steps_and_piles_up_on_the_noisiest() -> None:
    """Normal(0.4 T, 0.4 T), clamped: the released code reads 16 % as index 0, which its loop takes for t = T."""
    indices = draw_step_indices("as-released", EVERY_STEP, 1000, COUNT, seed=1)
    assert (indices == 0).double().mean() == pytest.approx(0.159, abs=0.01)
    assert (indices == 999).double().mean() == pytest.approx(0.067, abs=0.01)
    assert indices.double().median() == pytest.approx(400, abs=10)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_draw_is_a_step_of_the_sampler(policy: str) -> None:
    indices = draw_step_indices(policy, torch.tensor([900, 600, 300, 0]), 1000, 500, seed=2)
    assert indices.shape == (500,) and indices.dtype == torch.int64
    assert indices.min() >= 0 and indices.max() <= 3


def test_a_drawn_time_becomes_the_nearest_step_of_the_sampler() -> None:
    steps = torch.tensor([900, 600, 390, 0])
    assert draw_step_indices("single", steps, 1000, 3, seed=0).tolist() == [2, 2, 2]


@pytest.mark.parametrize("policy", ["ndtc", "uniform", "as-released"])
def test_the_seed_alone_decides(policy: str) -> None:
    first = draw_step_indices(policy, EVERY_STEP, 1000, 50, seed=7)
    torch.rand(13)
    assert torch.equal(first, draw_step_indices(policy, EVERY_STEP, 1000, 50, seed=7))
    assert not torch.equal(first, draw_step_indices(policy, EVERY_STEP, 1000, 50, seed=8))


def test_an_unknown_policy_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match="unknown time-step policy 'unifrom'") as refused:
        draw_step_indices("unifrom", EVERY_STEP, 1000, 1, seed=0)
    assert refused.value.remedy.startswith("did you mean uniform?")
    assert all(known in refused.value.remedy for known in POLICIES)


@pytest.mark.parametrize(("policy", "mean", "std"), [("ndtc:0.5:0.1", 500, 100), ("single:0.1", 100, 0)])
def test_numbers_behind_the_name_are_the_policys_own(policy: str, mean: float, std: float) -> None:
    times = drawn_times(policy)
    assert times.mean() == pytest.approx(mean, abs=3)
    assert times.std() == pytest.approx(std, abs=3)


def test_the_name_alone_stands_for_the_default_numbers() -> None:
    assert torch.equal(drawn_times("ndtc"), drawn_times(f"ndtc:{NDTC_MEAN}:{NDTC_STD}"))


@pytest.mark.parametrize(
    ("policy", "spelling"),
    [
        ("ndtc:0.5", "ndtc:MEAN:STD"),
        ("ndtc:0.5:0.2:0.1", "ndtc:MEAN:STD"),
        ("ndtc:0.5:0", "ndtc:MEAN:STD"),
        ("ndtc:nan:0.2", "ndtc:MEAN:STD"),
        ("ndtc:40:30", "ndtc:MEAN:STD"),
        ("single:", "single:TIME"),
        ("uniform:0.5", "uniform"),
    ],
)
def test_unfit_numbers_are_answered_with_the_spelling(policy: str, spelling: str) -> None:
    with pytest.raises(InputError) as refused:
        find_policy(policy)
    assert refused.value.cause == f"time-step policy {policy!r} is not {spelling}"
