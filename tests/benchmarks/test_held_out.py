import torch
from torch import Tensor

from ptq_export.benchmarks.held_out import held_out_noise, held_out_pairs, sampler_timesteps
from ptq_export.denoiser import NoiseSchedule
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler

SCHEDULE = NoiseSchedule()


def shrink(sample: Tensor, timestep: Tensor) -> Tensor:
    return 0.5 * sample


def test_timesteps_span_the_loop() -> None:
    assert sampler_timesteps(SCHEDULE, 10, 4) == [900, 600, 300, 0]
    assert sampler_timesteps(SCHEDULE, 2, 8) == [500, 0]


def test_pairs_are_what_the_reference_sees_in_its_own_loop() -> None:
    pairs = held_out_pairs(shrink, SCHEDULE, (1, 4, 4), steps=10, timesteps=4, count=70, seed=3).pairs
    noise = held_out_noise((70, 1, 4, 4), 3)
    seen: dict[int, Tensor] = {}
    sample_loop(
        shrink, make_scheduler(SCHEDULE), noise, 10, callback=lambda step: seen.update({step.timestep: step.sample})
    )
    assert list(pairs) == [900, 600, 300, 0]
    assert torch.equal(pairs[900], noise)
    torch.testing.assert_close(pairs[300], seen[300])


def test_held_out_noise_is_not_the_noise_of_the_same_seed() -> None:
    shape = (1, 1, 4, 4)
    others = [initial_noise(shape, seed) for seed in range(50)]
    assert not any(torch.equal(held_out_noise(shape, seed), other) for seed in range(50) for other in others)
