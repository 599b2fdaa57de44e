"""What the user tells of a noise schedule: every format takes it, twice is refused, and the notes follow."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from ddim_reference import State
from diffusers import DPMSolverMultistepScheduler, UNet2DModel

from ptq_export.checkpoints import load_checkpoint
from ptq_export.checkpoints.told import read_scheduler, with_schedule_of
from ptq_export.denoiser import NoiseSchedule
from ptq_export.errors import InputError
from ptq_export.sampling import sample_loop
from ptq_export.schedulers import make_scheduler

CONFIG = {"num_train_timesteps": 500, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}
FACTORY = """
from torch import nn

class Net(nn.Module):
    sample_shape = (1, 8, 8)
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
    def forward(self, sample, timestep):
        return self.conv(sample)
"""


@pytest.fixture(params=["ddim", "factory", "diffusers", "embedded"])
def spec(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    ddim_state: State,
    unet: UNet2DModel,
    monkeypatch: pytest.MonkeyPatch,
) -> str:
    """A checkpoint of each kind that has, or is given, a noise schedule."""
    if request.param == "ddim":
        torch.save(ddim_state, tmp_path / "model.pt")
        return str(tmp_path / "model.pt")
    if request.param == "factory":
        (tmp_path / "told_net.py").write_text(FACTORY)
        monkeypatch.syspath_prepend(tmp_path)
        return "told_net:Net"
    if request.param == "diffusers":
        unet.save_pretrained(tmp_path / "net")
        return str(tmp_path / "net")
    return "embedded:digits"


def test_prediction_betas_and_length_are_told_of_every_format(spec: str) -> None:
    denoiser = load_checkpoint(spec, assume={"predict": "v", "betas": "cosine", "timesteps": "500"})
    schedule, notes = denoiser.schedule, denoiser.source.notes
    assert (schedule.prediction_type, schedule.beta_schedule) == ("v_prediction", "squaredcos_cap_v2")
    assert schedule.num_train_timesteps == 500
    assert sum("predict=v, betas=cosine, timesteps=500 given by --assume" in note for note in notes) == 1
    assert not any("assumed" in note for note in notes if "schedule" in note)


def test_scheduler_configuration_goes_before_the_schedule_of_every_format(spec: str) -> None:
    denoiser = load_checkpoint(spec, scheduler=CONFIG)
    schedule, notes = denoiser.schedule, denoiser.source.notes
    assert (schedule.num_train_timesteps, schedule.beta_schedule) == (500, "squaredcos_cap_v2")
    assert schedule.prediction_type == "v_prediction"
    assert sum(note.startswith("noise schedule given by --scheduler-config") for note in notes) == 1
    assert not any("schedule assumed" in note for note in notes)


def test_schedule_told_twice_is_refused() -> None:
    with pytest.raises(InputError, match="--scheduler-config tells betas too"):
        load_checkpoint("embedded:digits", assume={"betas": "linear"}, scheduler=CONFIG)


def test_scheduler_configuration_without_betas_is_refused() -> None:
    with pytest.raises(InputError, match="beta_schedule"):
        load_checkpoint("embedded:digits", scheduler={"num_train_timesteps": 500})


@pytest.mark.parametrize("steps", [1000, 500])
def test_linear_betas_are_scaled_to_the_length(steps: int) -> None:
    schedule = with_schedule_of({"betas": "linear", "timesteps": str(steps)}, NoiseSchedule(4000, "squaredcos_cap_v2"))
    expected = np.linspace(0.1 / steps, 20 / steps, steps)
    assert np.allclose(make_scheduler(schedule).betas.numpy(), expected, rtol=1e-5, atol=0)


def test_what_is_not_told_stays() -> None:
    given = NoiseSchedule(beta_start=0.0015, beta_end=0.0195, beta_schedule="scaled_linear")
    assert with_schedule_of({}, given) is given
    assert with_schedule_of({"betas": "scaled_linear", "timesteps": "1000"}, given) is given
    assert with_schedule_of({"predict": "x0"}, given).beta_start == 0.0015


@pytest.mark.parametrize("predict", ["eps", "x0", "v"])
def test_told_prediction_is_honoured_by_the_sampler(predict: str) -> None:
    """One DDIM step from t = 900 to x_0 by the definition of each prediction (Salimans & Ho, 2022, section 4)."""
    schedule = with_schedule_of({"predict": predict}, NoiseSchedule(clip_sample=False))
    noise = torch.randn(2, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    output = torch.full_like(noise, 0.25)
    scheduler = make_scheduler(schedule)
    alpha = float(np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[0])
    signal, spread = alpha**0.5, (1 - alpha) ** 0.5
    x0 = {"eps": (noise - spread * output) / signal, "x0": output, "v": signal * noise - spread * output}[predict]
    made = sample_loop(lambda *_: output, scheduler, noise, 1)
    assert (made - x0).abs().max() < 1e-5


def test_configuration_that_diffusers_saves_is_read(tmp_path: Path, unet: UNet2DModel) -> None:
    """DPM-Solver's has -Infinity, which is no JSON: in a folder as from `--scheduler-config`."""
    unet.save_pretrained(tmp_path)
    DPMSolverMultistepScheduler(500).save_pretrained(tmp_path)
    assert "-Infinity" in (tmp_path / "scheduler_config.json").read_text()
    config = read_scheduler(tmp_path / "scheduler_config.json")
    for denoiser in (load_checkpoint(str(tmp_path)), load_checkpoint("embedded:digits", scheduler=config)):
        schedule = denoiser.schedule
        assert schedule.num_train_timesteps == 500
        kept = NoiseSchedule.from_json(json.loads(json.dumps(asdict(schedule), allow_nan=False)))
        assert make_scheduler(kept, "dpm-solver++").config.lambda_min_clipped == float("-inf")
