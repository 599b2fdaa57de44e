"""Pipelines of a `UNet2DConditionModel`: every part answers as diffusers' own pipeline does; what is wrong is named."""

from pathlib import Path

import pytest
import torch
from diffusers import DiffusionPipeline
from tiny_pipelines import BUILDERS, PROMPTS

from ptq_export.checkpoints import load_checkpoint
from ptq_export.denoiser import Denoiser

CLOSE = 1e-5


@pytest.fixture(scope="module", params=BUILDERS)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Denoiser, DiffusionPipeline]:
    """What we read of a folder, and what diffusers reads of it."""
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    BUILDERS[request.param](folder).save_pretrained(folder / "saved")
    return load_checkpoint(str(folder / "saved")), DiffusionPipeline.from_pretrained(folder / "saved")


def test_ids(loaded):
    denoiser, pipeline = loaded
    print(denoiser.source.notes, denoiser.inputs, denoiser.schedule)
