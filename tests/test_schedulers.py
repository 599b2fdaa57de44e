"""Final samples against the published formulas, and against diffusers' own schedulers set by the same configuration."""

import json
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import diffusers
import pytest
import torch
from torch import Tensor

from ptq_export.checkpoints.conventions import ERMONGROUP, OPENAI
from ptq_export.checkpoints.schedule import noise_schedule, schedule_notes
from ptq_export.denoiser import NoiseSchedule
from ptq_export.errors import InputError
from ptq_export.sampling import Step, initial_noise, sample_loop
from ptq_export.schedulers import SAMPLERS, allowed_steps, check_steps, make_scheduler, sampler_notes, visited_timesteps

NOISE = initial_noise((2, 2, 4, 4), 1)
Net = Callable[[Tensor, Tensor], Tensor]


def net(sample: Tensor, timestep: Tensor) -> Tensor:
    """No function of x_t alone, and large enough for x_0 to be clipped."""
    mixed = sample.roll(1, 2) * 0.7 + sample.tanh() * 0.6
    return mixed * (1 + 0.4 * torch.sin(timestep / 300)).reshape(-1, 1, 1, 1)


def with_variance(sample: Tensor, timestep: Tensor) -> Tensor:
    return torch.cat([net(sample, timestep), torch.cos(3 * sample)], 1)


def shares(schedule: NoiseSchedule) -> Tensor:
    """alpha-bar, float64: linear (arXiv:2006.11239, section 4) or cosine (arXiv:2102.09672, equation 17)."""
    total = schedule.num_train_timesteps
    if schedule.beta_schedule == "linear":
        return (1 - torch.linspace(schedule.beta_start, schedule.beta_end, total, dtype=torch.float64)).cumprod(0)
    f = torch.cos((torch.arange(total + 1, dtype=torch.float64) / total + 0.008) / 1.008 * math.pi / 2) ** 2
    return (1 - (1 - f[1:] / f[:-1]).clamp(max=0.999)).cumprod(0)


def published(schedule: NoiseSchedule, times: list[int], update: Callable[..., Tensor], model: Net) -> Tensor:
    """x_0 of `NOISE` by x_s = update(x_t, output, alpha-bar_t, alpha-bar_s), with alpha-bar = 1 behind the last."""
    alphas, sample = shares(schedule), NOISE.double()
    for t, then in pairwise([*times, None]):
        assert t is not None
        output = model(sample, torch.full((len(sample),), t))
        after = torch.ones((), dtype=torch.float64) if then is None else alphas[then]
        sample = update(sample, output, alphas[t], after)
    return sample


def clean(x: Tensor, eps: Tensor, a: Tensor) -> Tensor:
    return (x - (1 - a).sqrt() * eps) / a.sqrt()


def ddim(x: Tensor, eps: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """arXiv:2010.02502, equation 12 with sigma = 0."""
    return b.sqrt() * clean(x, eps, a) + (1 - b).sqrt() * eps


def clipped_ddim(x: Tensor, eps: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The same, with eps of the clipped x_0."""
    eps = eps[:, : x.shape[1]]
    x_0 = clean(x, eps, a).clamp(-1, 1)
    return ddim(x, (x - a.sqrt() * x_0) / (1 - a).sqrt(), a, b)


def ddpm(learned: bool) -> Callable[..., Tensor]:
    """arXiv:2006.11239, equations 6 and 7, and 3.2's larger variance; arXiv:2102.09672, equation 15, for a learned."""
    generator = torch.Generator().manual_seed(0)

    def update(x: Tensor, output: Tensor, a: Tensor, b: Tensor) -> Tensor:
        eps, beta = output[:, : x.shape[1]], 1 - a / b
        x_0 = clean(x, eps, a).clamp(-1, 1)
        mean = (b.sqrt() * beta * x_0 + (1 - beta).sqrt() * (1 - b) * x) / (1 - a)
        if b == 1:
            return mean
        least = beta * (1 - b) / (1 - a)
        v = (output[:, x.shape[1] :] + 1) / 2 if learned else 1
        sigma = (0.5 * (v * beta.log() + (1 - v) * least.log())).exp()
        return mean + sigma * torch.randn(x.shape, generator=generator)

    return update


def ratio_db(expected: Tensor, found: Tensor) -> float:
    error = (expected - found.double()).square().mean()
    return float(10 * torch.log10((expected.max() - expected.min()) ** 2 / error))


PIXELS = NoiseSchedule(variance_type="fixed_large", conventions=ERMONGROUP)
LINEAR = NoiseSchedule(variance_type="fixed_large", conventions=OPENAI)
KARRAS_OF_COSINE = NoiseSchedule(beta_schedule="squaredcos_cap_v2", settings={"use_karras_sigmas": True})
COSINE = NoiseSchedule(4000, "squaredcos_cap_v2", variance_type="learned_range", conventions=OPENAI)
OF_250 = [round(3999 * (249 - index) / 249) for index in range(250)]


@pytest.mark.parametrize(
    ("schedule", "sampler", "steps", "times", "update"),
    [
        (PIXELS, "ddim", 20, range(950, -1, -50), ddim),
        (PIXELS, "ddim", 30, range(990, -1, -33), ddim),
        (PIXELS, "ddpm", 20, range(950, -1, -50), ddpm(learned=False)),
        (LINEAR, "ddim", 20, range(950, -1, -50), clipped_ddim),
        (LINEAR, "ddim", 30, range(986, -1, -34), clipped_ddim),
        (LINEAR, "ddpm", 4, [999, 666, 333, 0], ddpm(learned=False)),
        (COSINE, "ddim", 20, range(3800, -1, -200), clipped_ddim),
        (COSINE, "ddpm", 250, OF_250, ddpm(learned=True)),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_samples_are_those_of_the_authors(
    schedule: NoiseSchedule, sampler: str, steps: int, times: Any, update: Callable[..., Tensor]
) -> None:
    model = with_variance if schedule.learns_variance else net
    assert visited_timesteps(schedule, steps, sampler) == list(times)
    found = sample_loop(model, make_scheduler(schedule, sampler), NOISE, steps, seed=0)
    assert ratio_db(published(schedule, list(times), update, model), found) > 80


def test_250_of_4000_are_those_of_the_paper() -> None:
    visited = visited_timesteps(COSINE, 250, "ddpm")
    assert visited[:3] == [3999, 3983, 3967] and visited[-2:] == [16, 0]


def saved(kind: str, **settings: Any) -> dict[str, Any]:
    config: dict[str, Any] = json.loads(getattr(diffusers, kind)(**settings).to_json_string())
    return config


OWN = {"DDIMScheduler": "ddim", "DDPMScheduler": "ddpm", "EulerDiscreteScheduler": "euler", "PNDMScheduler": "pndm"} | {
    "DPMSolverMultistepScheduler": "dpm-solver++",
    "UniPCMultistepScheduler": "unipc",
}


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize(
    ("kind", "steps", "settings"),
    [
        ("DDIMScheduler", 20, {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}),
        ("DDIMScheduler", 20, {"steps_offset": 1, "set_alpha_to_one": False, "clip_sample": False}),
        ("DDIMScheduler", 30, {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}),
        ("DDIMScheduler", 20, {"thresholding": True, "sample_max_value": 1.5}),
        ("DDIMScheduler", 4, {"trained_betas": [0.1, 0.2, 0.3, 0.4], "num_train_timesteps": 4}),
        ("DDPMScheduler", 20, {"beta_schedule": "sigmoid", "variance_type": "fixed_large"}),
        ("DDPMScheduler", 30, {"clip_sample_range": 2.0}),
        ("PNDMScheduler", 20, {"skip_prk_steps": True, "steps_offset": 1, "beta_schedule": "scaled_linear"}),
        ("PNDMScheduler", 30, {}),
        ("EulerDiscreteScheduler", 20, {"timestep_spacing": "leading", "final_sigmas_type": "sigma_min"}),
        ("EulerDiscreteScheduler", 4, {}),
        ("DPMSolverMultistepScheduler", 30, {"solver_order": 3, "use_karras_sigmas": True}),
        ("DPMSolverMultistepScheduler", 7, {"algorithm_type": "sde-dpmsolver++"}),
        ("UniPCMultistepScheduler", 30, {"final_sigmas_type": "sigma_min"}),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, dict) else value,
)
def test_a_folders_own_scheduler_runs_as_in_diffusers(kind: str, steps: int, settings: dict[str, Any]) -> None:
    theirs = getattr(diffusers, kind)(**settings)
    theirs.set_timesteps(steps)
    sample, generator = NOISE * theirs.init_noise_sigma, torch.Generator().manual_seed(0)
    extra = {"generator": generator} if OWN[kind] == "ddpm" or "algorithm_type" in settings else {}
    for t in theirs.timesteps:
        output = net(theirs.scale_model_input(sample, t), t.expand(len(sample)))
        sample = theirs.step(output, t, sample, return_dict=False, **extra)[0]
    schedule = noise_schedule(saved(kind, **settings), "here")
    assert NoiseSchedule.from_json(json.loads(json.dumps(schedule.to_json(), allow_nan=False))) == schedule
    found = sample_loop(net, make_scheduler(schedule, OWN[kind]), NOISE, steps, seed=0)
    torch.testing.assert_close(found, sample)


@pytest.mark.parametrize("kind", ["PNDMScheduler", "EulerDiscreteScheduler", "DPMSolverMultistepScheduler"])
def test_schedulers_that_never_clip_are_not_clipped_by_ddim(kind: str) -> None:
    schedule = noise_schedule(saved(kind, beta_schedule="scaled_linear"), "here")
    assert (schedule.clip_sample, schedule.sample_range) == (False, None)
    assert make_scheduler(schedule).config["clip_sample"] is False
    assert any(kind in note and "--sampler" in note for note in schedule_notes(saved(kind)))


def test_what_no_sampler_knows_is_named() -> None:
    config = saved("DDPMScheduler") | {"tensor_format": "pt"}
    assert any("tensor_format" in note for note in schedule_notes(config))
    assert schedule_notes(saved("DDPMScheduler")) == ()


@pytest.mark.parametrize(
    ("config", "cause"),
    [
        (saved("DDIMScheduler") | {"timestep_spacing": "even"}, "timestep_spacing = even"),
        (saved("EulerDiscreteScheduler") | {"timestep_type": "continuous"}, "timestep_type = continuous"),
        (saved("UniPCMultistepScheduler") | {"use_flow_sigmas": True}, "use_flow_sigmas"),
        (saved("DDPMScheduler") | {"trained_betas": [0.1, 0.2]}, "2 trained_betas for 1000 steps"),
        (saved("DDPMScheduler") | {"num_train_timesteps": 10**9}, "no usable noise schedule"),
        (saved("DDPMScheduler") | {"sample_max_value": math.nan}, "sample_max_value = nan"),
        (saved("DDPMScheduler") | {"beta_end": 1e-9}, "no usable noise schedule"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(config: dict[str, Any], cause: str) -> None:
    with pytest.raises(InputError, match=cause):
        noise_schedule(config, "here")


@pytest.mark.filterwarnings("ignore:__array__ implementation")
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "flow-euler"])
def test_every_sampler_takes_steps_that_do_not_divide_and_reaches_the_data(sampler: str) -> None:
    """The exact eps of data that is all zero leads there from any noise."""
    schedule = NoiseSchedule(clip_sample=False)
    alphas = shares(schedule).float()

    def exact(sample: Tensor, timestep: Tensor) -> Tensor:
        assert timestep.dtype == torch.int64
        return sample / (1 - alphas[timestep]).sqrt().reshape(-1, 1, 1, 1)

    for steps in (30, 37):
        assert visited_timesteps(schedule, steps, sampler)[0] >= 950
        found = sample_loop(exact, make_scheduler(schedule, sampler), NOISE, steps)
        assert found.abs().max() < 0.1


def test_a_flow_leads_along_its_velocity_to_the_data_at_any_number_of_steps() -> None:
    """Of data that is all zero: x_t = t / T noise, so the velocity is T / t x_t and every Euler step is exact."""
    schedule = NoiseSchedule(prediction_type="flow", clip_sample=False)
    seen: list[float] = []

    def exact(sample: Tensor, timestep: Tensor) -> Tensor:
        assert timestep.dtype == torch.float32
        seen.append(timestep[0].item())
        return sample * (1000 / timestep).reshape(-1, 1, 1, 1)

    found = sample_loop(exact, make_scheduler(schedule), NOISE, 7)
    assert found.abs().max() < 1e-5 and seen[0] == 1000 and len(seen) == 7 and seen == sorted(seen, reverse=True)
    assert seen == visited_timesteps(schedule, 7)


@pytest.mark.parametrize(("prediction", "sampler"), [("flow", "ddim"), ("epsilon", "flow-euler")])
def test_a_sampler_of_the_other_kind_is_refused(prediction: str, sampler: str) -> None:
    with pytest.raises(InputError, match=f"{sampler} cannot sample"):
        make_scheduler(NoiseSchedule(prediction_type=prediction), sampler)


def test_network_sees_scaled_samples_and_whole_times() -> None:
    seen: list[Step] = []
    schedule = NoiseSchedule(clip_sample=False)
    sample_loop(net, make_scheduler(schedule, "euler"), NOISE, 7, callback=seen.append)
    assert [step.timestep for step in seen] == visited_timesteps(schedule, 7, "euler")
    first = (1 - shares(schedule)[-1]).sqrt().float() * NOISE
    torch.testing.assert_close(seen[0].sample, first)
    assert all(torch.equal(step.output, net(step.sample, torch.full((2,), step.timestep))) for step in seen)
    assert any("rounded" in note for note in sampler_notes(schedule, 7, "euler"))


@pytest.mark.parametrize(
    ("schedule", "sampler", "steps", "message"),
    [
        (NoiseSchedule(4), "ddim", 20, "20 ddim steps of the 4 training steps.*\nnearest that can be taken: 4"),
        (NoiseSchedule(), "ddim", 600, "first would be t = 599.*\nnearest that can be taken: 500, 950"),
        (NoiseSchedule(), "ddim", 0, "at least one"),
        (LINEAR, "ddim", 600, "no integer stride.*\nnearest that can be taken: 500, 1000"),
        (NoiseSchedule(), "dpm-solver++", 1000, "the same\nnearest that can be taken: 999"),
        (KARRAS_OF_COSINE, "dpm-solver++", 20, "first two would be t = 998.*\nnearest that can be taken: 3"),
        (KARRAS_OF_COSINE, "unipc", 20, "first two would be t = 999.*\nnearest that can be taken: 5"),
        (NoiseSchedule(), "pndm", 3, "Runge-Kutta.*\nnearest that can be taken: 4"),
        (NoiseSchedule(settings={"steps_offset": 1}), "ddim", 1000, "t = 1000 is past the last, 999"),
        (NoiseSchedule(prediction_type="sample"), "pndm", 20, "pndm cannot sample a net that predicts x_0"),
    ],
)
def test_steps_that_cannot_be_taken_are_refused(
    schedule: NoiseSchedule, sampler: str, steps: int, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_steps(schedule, steps, sampler)


def test_proofs_take_fewer_steps_where_there_are_fewer() -> None:
    assert [allowed_steps(NoiseSchedule(total), 20) for total in (1000, 50, 4, 1)] == [20, 16, 4, 1]


def test_surprising_steps_are_told() -> None:
    assert sampler_notes(NoiseSchedule(), 20, "ddim") == []
    assert sampler_notes(NoiseSchedule(), 30, "ddim") == ["30 steps do not divide 1000: ddim takes t = 957, 924, ... 0"]
    assert sampler_notes(PIXELS, 30, "ddim") == ["30 ddim steps call the network 31 times, at t = 990 to 0"]
    dropped = NoiseSchedule(dropped_variance="learned_range")
    assert "--variance keep" in sampler_notes(dropped, 20, "ddpm")[0]
    assert sampler_notes(dropped, 20, "ddim") == []
