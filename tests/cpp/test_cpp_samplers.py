"""The samplers in C++ are diffusers' schedulers in Python's loop, step by step, by a run's own conventions."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cpp_tools import Call
from torch import Tensor

from ptq_export.denoiser import Convention, NoiseSchedule
from ptq_export.errors import InputError
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import check_steps, make_scheduler, sampler_notes

PLAIN = NoiseSchedule()
DIFFUSION = ("ddim", "dpm-solver++", "euler")
NOISE = initial_noise((2, 3, 4, 5), 0)
SHARE = 1e-5
"""Of the largest number, which Euler's samples count in tens: torch rounds square roots and logarithms as MKL does."""

STABLE_DIFFUSION = {"steps_offset": 1, "set_alpha_to_one": False, "timestep_spacing": "leading"}
SCHEDULES = {
    "plain": PLAIN,
    "v, zero snr, trailing": replace(
        PLAIN, prediction_type="v_prediction", rescale_betas_zero_snr=True, settings={"timestep_spacing": "trailing"}
    ),
    "x_0": replace(PLAIN, prediction_type="sample", clip_sample_range=0.7),
    "latents": replace(PLAIN, beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False),
    "cosine": replace(PLAIN, beta_schedule="squaredcos_cap_v2", num_train_timesteps=400),
    "sigmoid": replace(PLAIN, beta_schedule="sigmoid"),
    "own betas": replace(PLAIN, trained_betas=tuple(np.linspace(1e-3, 0.04, 100)), num_train_timesteps=100),
    "learned variance": replace(PLAIN, variance_type="learned_range"),
    "stable diffusion": replace(PLAIN, settings=STABLE_DIFFUSION),
    "linspace": replace(PLAIN, settings={"timestep_spacing": "linspace"}),
    "thresholding": replace(PLAIN, settings={"thresholding": True, "sample_max_value": 1.5}),
    "karras": replace(PLAIN, settings={"use_karras_sigmas": True}),
    "exponential": replace(PLAIN, settings={"use_exponential_sigmas": True}),
}
OF_DPM_SOLVER = {
    "first order": {"solver_order": 1},
    "heun": {"solver_type": "heun"},
    "euler at the end": {"euler_at_final": True},
    "least sigma at the end": {"final_sigmas_type": "sigma_min"},
    "clipped": {"lambda_min_clipped": -5.1},
}


def network(twice: bool) -> Any:
    """That of tests/cpp/programs/trace.cpp."""

    def made(x: Tensor, timestep: Tensor) -> Tensor:
        x = torch.cat([x, x], 1) if twice else x
        size = x.abs()
        return 0.75 * x - 0.25 * x * (size / (1 + size)) + timestep.float().reshape(-1, 1, 1, 1) / 4096

    return made


def traced(call: Call, folder: Path, schedule: NoiseSchedule, sampler: str, steps: int) -> Any:
    (folder / "schedule.json").write_text(json.dumps(schedule.to_json()), encoding="utf-8")
    np.save(folder / "noise.npy", NOISE.numpy())
    return call("trace", folder / "schedule.json", sampler, steps, folder / "noise.npy", folder / "out.npy")


def require_same(call: Call, folder: Path, schedule: NoiseSchedule, sampler: str, steps: int) -> None:
    done = traced(call, folder, schedule, sampler, steps)
    assert done.returncode == 0, done.stderr
    seen: list[Tensor] = []
    times: list[float] = []
    sample_loop(
        network(schedule.learns_variance),
        make_scheduler(schedule, sampler),
        NOISE,
        steps,
        callback=lambda step: (seen.append(step.previous), times.append(step.timestep)),  # type: ignore[func-returns-value]
    )
    wanted = torch.stack(seen).numpy()
    assert [float(text) for text in done.stdout.split()] == times
    np.testing.assert_allclose(np.load(folder / "out.npy"), wanted, rtol=0, atol=SHARE * max(1, np.abs(wanted).max()))
    assert done.stderr.splitlines() == sampler_notes(schedule, steps, sampler)


@pytest.mark.parametrize("steps", [1, 7, 20, 30])
@pytest.mark.parametrize("sampler", DIFFUSION)
@pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)
def test_every_step_is_that_of_diffusers(
    schedule: NoiseSchedule, sampler: str, steps: int, call: Call, tmp_path: Path
) -> None:
    try:
        check_steps(schedule, steps, sampler)
    except InputError as error:
        done = traced(call, tmp_path, schedule, sampler, steps)
        assert (done.returncode, done.stderr.splitlines()) == (2, [error.cause, error.remedy])
        return
    require_same(call, tmp_path, schedule, sampler, steps)


@pytest.mark.parametrize("settings", OF_DPM_SOLVER.values(), ids=OF_DPM_SOLVER)
def test_dpm_solvers_own_settings(settings: Mapping[str, Any], call: Call, tmp_path: Path) -> None:
    require_same(call, tmp_path, replace(PLAIN, settings=settings), "dpm-solver++", 12)


def test_sigmas_whose_first_two_time_steps_are_one(call: Call, tmp_path: Path) -> None:
    """Euler tells them apart before it rounds them."""
    schedule = replace(PLAIN, beta_schedule="squaredcos_cap_v2", settings={"use_karras_sigmas": True})
    require_same(call, tmp_path, schedule, "euler", 20)


@pytest.mark.parametrize("clipped_eps", [False, True])
@pytest.mark.parametrize("rule", ["floor-stride", "exact-stride", "inclusive", "downwards"])
def test_ddim_as_the_authors_of_a_family_run_it(rule: str, clipped_eps: bool, call: Call, tmp_path: Path) -> None:
    schedule = replace(PLAIN, conventions={"ddim": Convention(rule, clipped_eps, clipped_eps)})
    for steps in (10, 30):
        require_same(call, tmp_path, schedule, "ddim", steps)


@pytest.mark.parametrize("settings", [{}, {"shift": 3.0}])
def test_a_flow_is_followed_at_continuous_times(settings: Mapping[str, Any], call: Call, tmp_path: Path) -> None:
    schedule = replace(PLAIN, prediction_type="flow", settings=settings)
    require_same(call, tmp_path, schedule, "flow-euler", 10)


@pytest.mark.parametrize(
    ("schedule", "sampler", "told"),
    [
        (PLAIN, "ddpm", "ddpm is not sampled from C++"),
        (PLAIN, "best", "unknown sampler 'best'"),
        (PLAIN, "flow-euler", "flow-euler cannot sample a diffusion with betas"),
        (replace(PLAIN, prediction_type="flow"), "ddim", "ddim cannot sample a flow"),
        (replace(PLAIN, prediction_type="score"), "ddim", "the network predicts 'score'"),
        (replace(PLAIN, beta_schedule="mine"), "ddim", "the schedule of betas 'mine'"),
        (replace(PLAIN, settings={"timestep_spacing": "mine"}), "euler", "timestep_spacing = 'mine'"),
        (replace(PLAIN, settings={"use_beta_sigmas": True}), "euler", "use_beta_sigmas"),
        (replace(PLAIN, settings={"use_lu_lambdas": True}), "dpm-solver++", "use_lu_lambdas"),
        (replace(PLAIN, settings={"solver_order": 3}), "dpm-solver++", "order 3"),
        (replace(PLAIN, settings={"algorithm_type": "sde-dpmsolver++"}), "dpm-solver++", "sde-dpmsolver++"),
        (replace(PLAIN, prediction_type="flow", settings={"use_dynamic_shifting": True}), "flow-euler", "shifting"),
        (replace(PLAIN, conventions={"ddim": Convention("mine")}), "ddim", "the authors' time-steps 'mine'"),
        (replace(PLAIN, conventions={"euler": Convention("inclusive")}), "euler", "the authors' own euler"),
        (replace(PLAIN, settings={"thresholding": 3}), "ddim", "thresholding is 3, not true or false"),
        (replace(PLAIN, num_train_timesteps=0), "ddim", "num_train_timesteps is 0"),
        (replace(PLAIN, trained_betas=(0.1, 0.2)), "ddim", "2 betas for 1000"),
    ],
)
def test_what_is_not_sampled_here_is_refused_by_its_name(
    schedule: NoiseSchedule, sampler: str, told: str, call: Call, tmp_path: Path
) -> None:
    done = traced(call, tmp_path, schedule, sampler, 10)
    assert done.returncode == 2
    assert told in done.stderr


@pytest.mark.parametrize("shape", [(1, 1, 16, 16), (3, 5, 7), (2, 3), (1, 1)])
def test_the_noise_of_a_seed_is_torchs(shape: tuple[int, ...], call: Call, tmp_path: Path) -> None:
    for seed in (0, 12345):
        call("probe", "noise", tmp_path / "noise.npy", seed, *shape)
        np.testing.assert_allclose(np.load(tmp_path / "noise.npy"), initial_noise(shape, seed).numpy(), atol=5e-6)
