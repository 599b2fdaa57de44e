"""Pipelines of a `UNet2DConditionModel`: every part answers as diffusers' own pipeline does."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_pipelines import BUILDERS, PROMPTS, saved
from torch import Tensor

from ptq_export.checkpoints import load_checkpoint
from ptq_export.checkpoints.latent_denoiser import guidance_embedding
from ptq_export.denoiser import Denoiser

CLOSE = 1e-5
Loaded = tuple[Denoiser, DiffusionPipeline]


@pytest.fixture(scope="module", params=BUILDERS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    """What we read of a folder, and what diffusers reads of it."""
    folder = saved(request.param, tmp_path_factory.mktemp(request.param))
    return load_checkpoint(str(folder)), DiffusionPipeline.from_pretrained(folder)


def off(found: Tensor, wanted: Tensor) -> float:
    """The largest difference, of the largest value."""
    assert found.shape == wanted.shape
    return float((found - wanted.detach()).abs().max() / wanted.detach().abs().max())


def test_ids_are_those_of_the_pipelines_tokenizers(loaded: Loaded) -> None:
    denoiser, pipeline = loaded
    tokenizers = [pipeline.tokenizer, getattr(pipeline, "tokenizer_2", None)]
    for tokens, each in zip(denoiser.text.tokens, filter(None, tokenizers), strict=True):
        wanted = each(PROMPTS, padding="max_length", max_length=each.model_max_length, truncation=True).input_ids
        assert tokens.ids(PROMPTS).tolist() == wanted
        assert tokens.cut(PROMPTS) == [PROMPTS[3]]


def test_prompts_are_encoded_as_by_the_pipeline(loaded: Loaded) -> None:
    """An empty prompt is what the pipeline takes for a negative prompt that is not given: zeros for SDXL."""
    denoiser, pipeline = loaded
    prompts = [each for each in PROMPTS if each]
    asked = {"device": "cpu", "num_images_per_prompt": 1, "do_classifier_free_guidance": True}
    states, without, *pooled = pipeline.encode_prompt(prompts, **asked)
    found, empty = denoiser.text.encode(prompts), denoiser.text.encode([""])
    pairs = [("encoder_hidden_states", states, without), *[("text_embeds", *pooled)][: len(pooled)]]
    assert [name for name, *_ in pairs] == list(denoiser.text.conditions)
    for name, given, taken in pairs:
        assert off(found[name], given) < CLOSE
        assert (empty[name] - taken).abs().max() < CLOSE


def test_net_answers_as_the_pipelines(loaded: Loaded) -> None:
    denoiser, pipeline = loaded
    given = denoiser.draw(2, seed=0) | denoiser.text.encode(PROMPTS[:3:2])
    sample, timestep = torch.randn(2, *denoiser.sample_shape), torch.tensor([3, 960])
    images = [given[name] for name in ("mask", "masked_image_latents") if name in given]
    added = {name: given[name] for name in ("text_embeds", "time_ids") if name in given}
    with torch.no_grad():
        wanted = pipeline.unet(
            torch.cat([sample, *images], dim=1),
            timestep,
            given["encoder_hidden_states"],
            timestep_cond=given.get("timestep_cond"),
            added_cond_kwargs=added,
        ).sample
    assert off(denoiser(sample, timestep, **given), wanted) < CLOSE


def test_latents_are_decoded_as_by_the_pipeline(loaded: Loaded) -> None:
    denoiser, pipeline = loaded
    latents = torch.randn(2, *denoiser.sample_shape)
    with torch.no_grad():
        wanted = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample
        assert off(denoiser.decoder(latents), wanted) < CLOSE
    assert wanted.shape[-1] == pipeline.unet.config.sample_size * pipeline.vae_scale_factor


def test_schedule_is_the_pipelines(loaded: Loaded) -> None:
    denoiser, pipeline = loaded
    schedule, config = denoiser.schedule, pipeline.scheduler.config
    assert (schedule.beta_start, schedule.beta_end, schedule.clip_sample) == (0.00085, 0.012, False)
    assert schedule.prediction_type == config.get("prediction_type", "epsilon")


def test_examples_of_sdxl_are_the_default_size_and_of_lcm_the_default_guidance(loaded: Loaded) -> None:
    denoiser, pipeline = loaded
    if "time_ids" in denoiser.examples:
        wanted = pipeline._get_add_time_ids((32, 32), (0, 0), (32, 32), torch.float32, 24)
        assert torch.equal(denoiser.examples["time_ids"], wanted)
        assert denoiser.text.scale == 5
    if "timestep_cond" in denoiser.examples:
        wanted = pipeline.get_guidance_scale_embedding(torch.tensor([8.5 - 1]), embedding_dim=16)
        assert torch.equal(denoiser.examples["timestep_cond"], wanted)
        assert denoiser.text.scale == 1
        odd = pipeline.get_guidance_scale_embedding(torch.tensor([2.0]), embedding_dim=7)
        assert torch.equal(guidance_embedding(3.0, 7), odd)


def test_masks_are_rectangles_and_said_to_be_drawn(tmp_path: Path) -> None:
    denoiser = load_checkpoint(str(saved("inpaint", tmp_path)))
    mask = denoiser.examples["mask"]
    assert {*mask.unique().tolist()} == {0.0, 1.0}
    assert len({tuple(each.flatten().tolist()) for each in mask}) == len(mask) == 8
    assert any(note.startswith("examples of mask are drawn") for note in denoiser.source.notes)
    assert len(denoiser.examples["encoder_hidden_states"]) == 8
