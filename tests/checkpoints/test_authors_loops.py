"""The samplers of latent-diffusion and lucidrains: our loop ends where their published updates end, written out."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from ptq_export.checkpoints.conventions import LATENT_DIFFUSION, LUCIDRAINS
from ptq_export.denoiser import NoiseSchedule
from ptq_export.sampling import initial_noise, sample_loop
from ptq_export.schedulers import make_scheduler

STEPS = 10
NOISE = initial_noise((2, 1, 4, 4), 0)
BETAS = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
ALPHAS = np.cumprod(1 - BETAS)


def net(sample: Tensor, timestep: Tensor) -> Tensor:
    """A prediction that depends on both."""
    return 0.4 * sample + 0.3 * torch.sin(timestep[:, None, None, None] / 100 + sample)


def called(sample: np.ndarray, t: int) -> np.ndarray:
    return net(torch.from_numpy(sample), torch.full((2,), t)).numpy()


def latent_diffusion() -> np.ndarray:
    """ldm/models/diffusion/ddim.py, eta = 0: t = 1, 101, ..., 901, and the alpha of t = 0 before the first."""
    x = NOISE.double().numpy()
    times = np.arange(0, 1000, 1000 // STEPS) + 1
    before = np.concatenate([ALPHAS[:1], ALPHAS[times[:-1]]])
    for t, alpha_before in zip(times[::-1], before[::-1], strict=True):
        eps = called(x, int(t))
        x0 = (x - (1 - ALPHAS[t]) ** 0.5 * eps) / ALPHAS[t] ** 0.5
        x = alpha_before**0.5 * x0 + (1 - alpha_before) ** 0.5 * eps
    return x


def lucidrains() -> np.ndarray:
    """`ddim_sample` of a net that predicts v: x_0 clipped and eps from it, T - 1 first, x_0 itself last."""
    x = NOISE.double().numpy()
    times = np.linspace(-1, 999, STEPS + 1).astype(int)[::-1]
    for t, after in pairwise(times):
        signal, spread = ALPHAS[t] ** 0.5, (1 - ALPHAS[t]) ** 0.5
        x0 = np.clip(signal * x - spread * called(x, int(t)), -1, 1)
        eps = (x - signal * x0) / spread
        x = x0 if after < 0 else ALPHAS[after] ** 0.5 * x0 + (1 - ALPHAS[after]) ** 0.5 * eps
    return x


@pytest.mark.parametrize(
    ("authors", "schedule"),
    [
        (latent_diffusion, NoiseSchedule(clip_sample=False, settings=LATENT_DIFFUSION)),
        (lucidrains, NoiseSchedule(prediction_type="v_prediction", conventions=LUCIDRAINS)),
    ],
)
def test_loop_ends_where_the_authors_end(authors: Callable[[], np.ndarray], schedule: NoiseSchedule) -> None:
    scheduler = make_scheduler(replace(schedule, trained_betas=tuple(BETAS)))
    found = sample_loop(net, scheduler, NOISE, STEPS).numpy()
    assert np.abs(found - authors()).max() < 1e-4 * np.abs(found).max()
