"""`embedded:emoji` is the pipeline that diffusers itself loads, and the classifier knows what it has not seen."""

import pytest
import torch
from diffusers import StableDiffusionPipeline

from ptq_export.benchmarks.emoji import load_emoji_groups
from ptq_export.checkpoints import load_checkpoint
from ptq_export.checkpoints.embedded import ASSETS
from ptq_export.denoiser import Denoiser
from ptq_export.nn.probe import noise

PROMPTS = ["flat red apple", "noto dog face"]
MOST_BYTES = 20_000_000


@pytest.fixture(scope="module")
def denoiser() -> Denoiser:
    return load_checkpoint("embedded:emoji")


@pytest.fixture(scope="module")
def pipeline() -> StableDiffusionPipeline:
    """In float16 on disk, computed in float32 as ours."""
    return StableDiffusionPipeline.from_pretrained(ASSETS / "emoji", torch_dtype=torch.float32, local_files_only=True)


@torch.no_grad()
def test_diffusers_loads_the_same_model(denoiser: Denoiser, pipeline: StableDiffusionPipeline) -> None:
    assert denoiser.text is not None and denoiser.decoder is not None
    pairs = noise(denoiser, 2, 500, 0)
    wanted = pipeline.unet(pairs.sample, pairs.timestep, **pairs.conditions).sample
    torch.testing.assert_close(pairs.through(denoiser), wanted, rtol=0, atol=1e-5)
    states, empty = pipeline.encode_prompt(PROMPTS, "cpu", 1, True)
    torch.testing.assert_close(denoiser.text.encode(PROMPTS)["encoder_hidden_states"], states, rtol=0, atol=1e-5)
    torch.testing.assert_close(denoiser.text.encode(["", ""])["encoder_hidden_states"], empty, rtol=0, atol=1e-5)
    image = pipeline.vae.decode(pairs.sample / pipeline.vae.config.scaling_factor).sample
    torch.testing.assert_close(denoiser.decoder(pairs.sample), image, rtol=0, atol=1e-5)


def test_it_tells_how_it_was_trained_and_is_small(denoiser: Denoiser) -> None:
    assert denoiser.schedule.prediction_type == "v_prediction" and denoiser.sample_shape == (4, 16, 16)
    assert denoiser.source.ema and not any("not stated" in note for note in denoiser.source.notes)
    assert any("trained with" in note for note in denoiser.source.notes)
    assert sum(file.stat().st_size for file in (ASSETS / "emoji").rglob("*") if file.is_file()) < MOST_BYTES


def test_the_classifier_has_prompts_of_its_own_of_every_group(denoiser: Denoiser) -> None:
    groups = load_emoji_groups()
    assert {*groups.prompts.values()} == {*range(len(groups.names))} and 0.5 < groups.accuracy < 1
    assert groups.group_of(torch.zeros(2, 3, 64, 64)).shape == (2,)
