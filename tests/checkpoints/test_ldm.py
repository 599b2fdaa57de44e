"""CompVis/latent-diffusion checkpoints: the net, its average, its betas; what is not read is said or refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from openai_reference import State, random_state, reference, tensor_shapes

from ptq_export.checkpoints import load_checkpoint
from ptq_export.checkpoints.ldm import PUBLISHED
from ptq_export.checkpoints.openai_layout import Layout, read_layout
from ptq_export.errors import InputError
from ptq_export.schedulers import make_scheduler

PLAIN = Layout(3, 3, 32, (32, 64), 1, (1,), resblock_updown=False, scale_shift=False, classes=None)
RULES = {  # ldm/modules/diffusionmodules/util.py, make_beta_schedule; `linear` there is linear in the square root
    "linear": lambda steps: np.linspace(0.0015**0.5, 0.0195**0.5, steps) ** 2,
    "sqrt_linear": lambda steps: np.linspace(1e-4, 0.02, steps),
    "sqrt": lambda steps: np.linspace(1e-4, 0.02, steps) ** 0.5,
}


def checkpoint(layout: Layout, folder: Path, average: float | None = 2.0, **further: torch.Tensor) -> tuple[str, State]:
    """A Lightning file as this code saves it, its average that many times the live weights; and the average."""
    live = random_state(layout)
    tensors = {f"model.diffusion_model.{name}": tensor for name, tensor in live.items()}
    tensors |= {"first_stage_model.encoder.conv_in.weight": torch.zeros(8, 3, 3, 3)}
    taken = live
    if average is not None:
        taken = {name: tensor * average for name, tensor in live.items()}
        tensors |= {f"model_ema.{f'diffusion_model.{name}'.replace('.', '')}": value for name, value in taken.items()}
        tensors |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    torch.save({"epoch": 1, "state_dict": tensors | further}, folder / "model.ckpt")
    return str(folder / "model.ckpt"), taken


@pytest.mark.parametrize(
    ("changes", "heads"),
    [
        ({}, {"head-width": 32}),
        ({"in_channels": 4, "out_channels": 4, "resblock_updown": True, "scale_shift": True}, {"heads": 8}),
        ({"classes": 5}, {"heads": 2}),
    ],
    ids=["vq", "kl", "classes"],
)
def test_average_of_the_net_equals_the_reference(changes: dict, heads: dict[str, int], tmp_path: Path) -> None:
    layout = replace(PLAIN, **changes)
    path, state = checkpoint(layout, tmp_path, average=1.5)
    denoiser = load_checkpoint(path, 16, {key: str(value) for key, value in heads.items()})
    sample = torch.randn(2, layout.in_channels, 16, 16, generator=torch.Generator().manual_seed(1))
    label = () if layout.classes is None else (torch.tensor([0, 4]),)
    timestep = torch.tensor([3, 950])
    expected = reference(state, sample, timestep, *label, **{key.replace("-", "_"): n for key, n in heads.items()})
    difference = (denoiser(sample, timestep, **dict(zip(("label",), label, strict=False))) - expected).abs().max()
    assert difference < 3e-6 * expected.abs().max()
    assert denoiser.source.ema is True
    assert denoiser.classes == layout.classes


@pytest.mark.parametrize("rule", RULES)
def test_schedule_is_that_of_the_betas_in_the_file(rule: str, tmp_path: Path) -> None:
    betas = RULES[rule](500)
    path, _ = checkpoint(PLAIN, tmp_path, betas=torch.tensor(betas, dtype=torch.float32))
    schedule = load_checkpoint(path, 16).schedule
    assert schedule.num_train_timesteps == 500
    assert np.allclose(make_scheduler(schedule).betas.numpy(), betas, rtol=1e-6, atol=0)
    assert (schedule.clip_sample, schedule.prediction_type) == (False, "epsilon")
    assert (schedule.trained_betas is None) == (rule != "sqrt")


def test_usual_schedule_has_its_name(tmp_path: Path) -> None:
    path, _ = checkpoint(PLAIN, tmp_path, betas=torch.tensor(RULES["linear"](1000), dtype=torch.float32))
    schedule = load_checkpoint(path, 16).schedule
    assert (schedule.beta_schedule, schedule.beta_start, schedule.beta_end) == ("scaled_linear", 0.0015, 0.0195)


def test_betas_of_the_file_are_not_to_be_assumed(tmp_path: Path) -> None:
    path, _ = checkpoint(PLAIN, tmp_path, betas=torch.tensor(RULES["linear"](1000), dtype=torch.float32))
    with pytest.raises(InputError, match="has its own betas"):
        load_checkpoint(path, 16, {"betas": "cosine"})
    assert load_checkpoint(path, 16, {"predict": "v"}).schedule.prediction_type == "v_prediction"


@pytest.mark.parametrize(
    "betas", [torch.tensor([0.1, 1.5]), torch.zeros(0), torch.full((2, 2), 0.1), torch.ones(9, device="meta")]
)
def test_betas_that_are_none_are_refused(betas: torch.Tensor, tmp_path: Path) -> None:
    path, _ = checkpoint(PLAIN, tmp_path, betas=betas)
    with pytest.raises(InputError, match=r"are no noise schedule|betas is not a plain float tensor"):
        load_checkpoint(path, 16)


def test_what_is_not_read_is_said(tmp_path: Path) -> None:
    path, _ = checkpoint(PLAIN, tmp_path, average=None, scale_factor=torch.tensor(0.2213))
    source = load_checkpoint(path, 16).source
    assert (source.format, source.ema) == ("CompVis/latent-diffusion", None)
    assert "first_stage_model not read: samples are latents, times scale_factor = 0.2213" in source.notes
    assert "not stated whether these are EMA weights" in source.notes
    assert any(note.startswith("head-width=32, qkv=legacy, predict=eps, betas=scaled_linear") for note in source.notes)


def test_average_of_another_net_is_not_taken(tmp_path: Path) -> None:
    path, _ = checkpoint(PLAIN, tmp_path, **{"model_ema.diffusion_modelout2weight": torch.zeros(1)})
    source = load_checkpoint(path, 16).source
    assert source.ema is False
    assert any("model_ema does not fit the net (diffusion_modelout2weight, 1 in all)" in note for note in source.notes)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_net_is_known_again_from_full_size_keys(name: str) -> None:
    entry = PUBLISHED[name]
    tensors = {key: torch.empty(shape, device="meta") for key, shape in tensor_shapes(entry.layout).items()}
    assert read_layout(tensors, name) == entry.layout
    assert all(entry.flags.heads_over(width) >= 1 for width in entry.layout.attention_widths)
